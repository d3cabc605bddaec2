"""What training minimises: a negative bound on log p(x), of all that is present in a row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config.objective import KlRegulariser, Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Output, repeated_mask
from pipeline.models.views import Views
from pipeline.objectives.bounds import mixture_bound
from pipeline.objectives.divergence import capacity, free_bits, kl_to_experts, kl_to_prior
from pipeline.objectives.likelihood import nll


@dataclass(frozen=True)
class Loss:
    """A loss and what it is made of, in nats.

    Attributes:
        total: What is minimised.
        terms: `rgb_nll`, `depth_nll`, `seg_nll`, `kl`, `kl_private_rgb` ...: unweighted, detached,
            reduced like the total.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def negative_elbo(
    model: SharedLatentAutoencoder,
    output: Output,
    batch: Batch,
    objective: Objective,
    views: Views,
    *,
    beta: float,
    global_batch: int,
    total_over_peers: Callable[[Tensor], Tensor] = lambda values: values,
    samples_seen: int = 0,
) -> Loss:
    """The loss of one pass.

    Every row predicts its targets, which are all that is present in it whatever its posterior saw, unless the
    views say otherwise. The private latent of a modality that was not given is a draw from its prior and
    costs no KL. Nats, summed over valid events, then over rows, divided by the global batch size.

    Args:
        model: Unwrapped; its scales are part of the likelihood.
        output: Of the model for this batch and these views.
        batch: This process's rows.
        objective: Densities, weights, the latent regulariser and, for mvtcae, alpha. A regulariser that
            is no divergence of each row's posterior adds nothing here.
        views: Which subsets the rows are encoded from.
        beta: Factor on the KL terms now.
        global_batch: Rows over all processes.
        total_over_peers: Adds up over processes what free bits and capacity are measured on.
        samples_seen: Including this update; the capacity grows with it.
    """
    assert output.decoded is not None

    def average(rows: Float[Tensor, "rows ..."]) -> Float[Tensor, "..."]:
        weight = views.weight.to(rows.dtype)
        return total_over_peers(weight @ rows.detach()) / total_over_peers(weight.sum()).clamp(min=1e-6)

    rows = reconstruction_nll(model, output, batch, objective, views)
    weights = {"rgb": objective.rgb.weight, "depth": objective.depth.weight, "seg": objective.seg.weight}
    reconstruction = torch.zeros_like(views.weight, dtype=output.shared.dtype)
    for name, row in rows.items():
        reconstruction = reconstruction + weights[name] * row
    terms = {f"{name}_nll": row for name, row in rows.items()}
    divergences = _divergences(model, output, objective)
    terms |= divergences
    divergences = _limited(divergences, output, objective, average, samples_seen)
    if _is_mixture(model, objective, views):
        total = mixture_bound(model.modalities, output, reconstruction, views, objective, beta=beta)
    else:
        total = (views.weight * _bound(model, output, objective, reconstruction, divergences, beta)).sum()
    return Loss(
        total / global_batch,
        {name: (views.weight * row.detach()).sum() / global_batch for name, row in terms.items()},
    )


def reconstruction_nll(
    model: SharedLatentAutoencoder, output: Output, batch: Batch, objective: Objective, views: Views
) -> dict[str, Float[Tensor, " rows"]]:
    """-log p(x_m | z, w_m) of each target of each view of a row; 0 for what is not a target."""
    assert output.decoded is not None
    rows = nll(model, output.decoded, batch.repeated(views.count), objective)
    wanted = {name: views.targets[model.modalities.index(name)] for name in rows}
    return {name: torch.where(wanted[name], row, 0.0) for name, row in rows.items()}


def mvtcae(
    reconstruction: Float[Tensor, " batch"],
    kl: Float[Tensor, " batch"],
    kl_experts: Float[Tensor, " batch"],
    count: Int[Tensor, " batch"],
    alpha: Float[Tensor, " batch"] | float,
    beta: float,
) -> Float[Tensor, " batch"]:
    """(M - a) / M * reconstruction + beta * [(1 - a) KL(q || p) + a / M * sum_m KL(q || q_m)].

    With M = 1 it is (1 - a) times the beta-ELBO, with a = 0 the ELBO of the product of experts.

    Args:
        reconstruction: Weighted NLL, and the KL of private latents, which exist for it alone.
        kl: KL(joint posterior || prior).
        kl_experts: Sum over what is present of KL(joint posterior || expert).
        count: M, the number of modalities present.
        alpha: a, from the KL to the prior (0) to agreement with the experts (1).
        beta: Factor on the divergences.

    Source: Hwang et al. 2021, "Multi-View Representation Learning via Total Correlation Objective" (NeurIPS).
    """
    share = alpha / count.clamp(min=1)
    return (1.0 - share) * reconstruction + beta * ((1.0 - alpha) * kl + share * kl_experts)


def _divergences(
    model: SharedLatentAutoencoder, output: Output, objective: Objective
) -> dict[str, Float[Tensor, " rows"]]:
    """KL of the shared and of each private posterior to N(0, I); a private latent not given costs nothing."""
    if objective.regulariser.kind not in ("kl", "tc"):
        return {}
    present = output.experts.present
    seen = output.given & repeated_mask(present, output.given.shape[1] // present.shape[1])
    divergences = {"kl": kl_to_prior(output.posterior.shared)}
    for name, private in output.posterior.private.items():
        row = kl_to_prior(private)
        divergences[f"kl_private_{name}"] = torch.where(seen[model.modalities.index(name)], row, 0.0)
    if model.fusion == "mvtcae":
        divergences["kl_experts"] = kl_to_experts(output.posterior.shared, output.experts)
    return divergences


def _limited(
    divergences: dict[str, Float[Tensor, " rows"]],
    output: Output,
    objective: Objective,
    average: Callable[[Tensor], Tensor],
    samples_seen: int,
) -> dict[str, Float[Tensor, " rows"]]:
    """The KL of the shared latent with free bits, or held at a capacity."""
    regulariser = objective.regulariser
    if not isinstance(regulariser, KlRegulariser):
        return divergences
    if regulariser.free_bits:
        each = output.posterior.shared.kl_to_standard()
        return divergences | {"kl": free_bits(each, regulariser.free_bits, average(each))}
    if regulariser.capacity is not None:
        target = regulariser.capacity * min(1.0, samples_seen / regulariser.capacity_samples)
        return divergences | {"kl": capacity(divergences["kl"], target, average(divergences["kl"]))}
    return divergences


def _bound(
    model: SharedLatentAutoencoder,
    output: Output,
    objective: Objective,
    reconstruction: Float[Tensor, " rows"],
    divergences: dict[str, Float[Tensor, " rows"]],
    beta: float,
) -> Float[Tensor, " rows"]:
    """The weighted reconstruction and the divergences of each row together."""
    if not divergences:
        return reconstruction
    private = [row for name, row in divergences.items() if name.startswith("kl_private")]
    for row in private:
        reconstruction = reconstruction + beta * row
    if model.fusion != "mvtcae":
        return reconstruction + beta * divergences["kl"]
    count = output.experts.present.sum(dim=0)
    alpha = torch.where(count > 1, objective.mvtcae_alpha, 0.0)
    return mvtcae(reconstruction, divergences["kl"], divergences["kl_experts"], count, alpha, beta)


def _is_mixture(model: SharedLatentAutoencoder, objective: Objective, views: Views) -> bool:
    """Whether the posterior is weighed as the mixture that its views are the components of."""
    return (
        model.fusion in ("moe", "mmvaeplus")
        and isinstance(objective.regulariser, KlRegulariser)
        and views.count > 1
    )
