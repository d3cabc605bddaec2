"""What the choices of a system mean together, and which of them do not go together."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.model import DENSITY_FUSIONS, SUBSETS, Model, PosteriorKind
from pipeline.config.objective import AdversarialRegulariser, ImageAdversary, KlRegulariser, Objective

NATURAL_POSTERIOR: dict[str, PosteriorKind] = {
    "none": "deterministic",
    "kl": "gaussian",
    "tc": "gaussian",
    "mmd": "deterministic",
    "adversarial": "deterministic",
    "avb": "implicit",
}
"""What each latent regulariser is defined for."""

ALLOWED_POSTERIORS: dict[str, tuple[PosteriorKind, ...]] = {
    "none": ("deterministic", "none"),
    "kl": ("gaussian",),
    "tc": ("gaussian",),
    "mmd": ("deterministic", "gaussian"),
    "adversarial": ("deterministic", "gaussian"),
    "avb": ("implicit",),
}


def posterior_kind(model: Model, objective: Objective) -> PosteriorKind:
    """What encoders give: as configured, or what the latent regulariser is defined for."""
    return model.posterior or NATURAL_POSTERIOR[objective.regulariser.kind]


def has_likelihood(model: Model, objective: Objective) -> bool:
    """Whether -log p(x) can be estimated: there is a density of data, and of latents given data."""
    return (
        posterior_kind(model, objective) == "gaussian"
        and objective.regulariser.kind in ("kl", "tc")
        and objective.rgb.density != "bce"
    )


def contradictions(model: Model, objective: Objective) -> Iterator[str]:
    """What is wrong with a combination and the nearest that is right, one sentence each."""
    kind, posterior = objective.regulariser.kind, posterior_kind(model, objective)
    allowed = ALLOWED_POSTERIORS[kind]
    if posterior not in allowed:
        yield (
            f"objective.regulariser.kind: {kind} is not defined for model.posterior: {posterior}; "
            f"choose posterior: {' or '.join(allowed)}, or kind: {' or '.join(_regularisers_of(posterior))}"
        )
        return
    if posterior == "deterministic" and model.fusion in DENSITY_FUSIONS:
        yield (
            f"model.fusion: {model.fusion} multiplies or mixes densities, and with "
            f"objective.regulariser.kind: {kind} the posterior is a point, which has none; "
            "choose model.fusion: joint or barycentre"
        )
    if posterior == "implicit" and model.fusion != "joint":
        yield f"model.fusion: {model.fusion} cannot fuse implicit posteriors; choose model.fusion: joint"
    if posterior == "implicit" and model.private:
        yield "model.private: an implicit posterior has no private latents; set model.private: {}"
    if model.fusion in ("mvtcae", "mmvaeplus") and posterior == "gaussian" and kind != "kl":
        yield (
            f"model.fusion: {model.fusion} is a bound of its own, which needs "
            f"objective.regulariser.kind: kl, not {kind}; choose model.fusion: mopoe"
        )
    elif kind not in ("none", "kl") and model.seen_in_training in ("each", "enumerated", "subsampled"):
        yield (
            f"model.subsets: {model.seen_in_training} encodes a row several times, and "
            f"objective.regulariser.kind: {kind} is for one code per row; choose model.subsets: "
            f"{SUBSETS[model.fusion][0]}"
        )
    if posterior == "none":
        yield from _generator_alone(objective)
    yield from _adversary(objective, posterior)
    yield from _categories(model, objective, posterior)
    yield from _mixture(model, objective)


def _categories(model: Model, objective: Objective, posterior: PosteriorKind) -> Iterator[str]:
    regulariser = objective.regulariser
    if not (isinstance(regulariser, AdversarialRegulariser) and regulariser.prior == "categorical"):
        return
    if model.latent_size <= regulariser.components:
        yield (
            f"objective.regulariser.components: {regulariser.components} categories and a style do not fit "
            f"model.latent: {model.latent}; choose components: {max(2, model.latent_size - 1)} or fewer, "
            f"or a latent of {regulariser.components + 1} or more"
        )
    if posterior != "deterministic":
        yield (
            f"objective.regulariser.prior: categorical holds codes to categories, which noise of "
            f"model.posterior: {posterior} would take them from; choose posterior: deterministic"
        )


def idle_adversary(objective: Objective, samples: int) -> str | None:
    """What is wrong with a training that ends before its discriminator has pulled at anything."""
    adversary = objective.adversary
    if not isinstance(adversary, ImageAdversary):
        return None
    alone = adversary.start_samples + adversary.warmup_samples
    if alone < samples:
        return None
    return (
        f"objective.adversary: start_samples and warmup_samples together are {alone:,}, and train.samples "
        f"{samples:,} ends before that, so the discriminator would never matter; shorten them, or train for "
        "longer"
    )


def _generator_alone(objective: Objective) -> Iterator[str]:
    if not isinstance(objective.adversary, ImageAdversary):
        yield (
            "model.posterior: none leaves nothing to train the decoders with; choose "
            "objective.adversary.kind: image, or another posterior"
        )
    elif objective.adversary.fakes != "prior":
        yield (
            f"objective.adversary.fakes: {objective.adversary.fakes} needs reconstructions, which "
            "model.posterior: none cannot make; choose fakes: prior"
        )
    if objective.corruption.any:
        yield (
            "objective.corruption: with model.posterior: none there is no encoder to corrupt the input of; "
            "remove it"
        )


def _adversary(objective: Objective, posterior: PosteriorKind) -> Iterator[str]:
    adversary = objective.adversary
    if (
        isinstance(adversary, ImageAdversary)
        and adversary.fakes != "reconstructions"
        and posterior != "none"
        and objective.regulariser.kind == "none"
    ):
        yield (
            f"objective.adversary.fakes: {adversary.fakes} draws latents from a prior that "
            "objective.regulariser.kind: none does not hold the codes to; choose fakes: reconstructions"
        )


def _mixture(model: Model, objective: Objective) -> Iterator[str]:
    """What only the bounds of a mixture have, and what they do not have."""
    regulariser, where = objective.regulariser, "objective.regulariser"
    if not isinstance(regulariser, KlRegulariser):
        return
    if not (model.fusion in ("moe", "mmvaeplus") and model.seen_in_training == "each"):
        suited = f"is for model.fusion: moe (with model.subsets: each) or mmvaeplus, not {model.fusion}"
        suited += f" (with subsets: {model.seen_in_training})" if model.fusion == "moe" else ""
        if regulariser.importance_samples > 1:
            yield f"{where}.importance_samples: {regulariser.importance_samples} {suited}; set it to 1"
        if regulariser.estimator == "dreg":
            yield f"{where}.estimator: dreg {suited}; set it to iwae"
        return
    limit = "free_bits" if regulariser.free_bits else "capacity" if regulariser.capacity else None
    if limit:
        yield (
            f"{where}.{limit}: the bound of model.fusion: {model.fusion} weighs draws and has no KL to "
            "limit; remove it, or choose model.fusion: mopoe"
        )
    adversary = objective.adversary
    if (
        regulariser.estimator == "dreg"
        and isinstance(adversary, ImageAdversary)
        and adversary.fakes != "prior"
    ):
        yield (
            f"{where}.estimator: dreg rewrites the gradient that reaches the draws, and would rewrite "
            f"that of objective.adversary.fakes: {adversary.fakes} with it; choose estimator: iwae, or "
            "fakes: prior"
        )


def _regularisers_of(posterior: PosteriorKind) -> list[str]:
    return [kind for kind, posteriors in ALLOWED_POSTERIORS.items() if posterior in posteriors]
