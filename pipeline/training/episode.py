"""One few-shot episode: adapt to a support, then measure gain, forgetting and copying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.schema import Adapt
from pipeline.metrics.fewshot import (
    Proposal,
    draw_proposal,
    memorisation,
    nll_under_prior,
    real_scenes,
    reconstruction_nll,
    scene_features,
)
from pipeline.metrics.fidelity import Fidelity, Prediction, predict
from pipeline.models.encoded import Encoded
from pipeline.models.pretrained import Pretrained
from pipeline.models.prior import LatentPrior, refit_prior
from pipeline.models.scene import decode_in_parts
from pipeline.models.variables import Decoded
from pipeline.training.adaptation import adapt_decoder, decoder_adapted

GENERATED = 64
"""Scenes drawn from a model to see whether they copy the support."""

FIDELITY = ("rgb_psnr_db", "depth_absrel", "seg_miou")


@dataclass(frozen=True)
class Subject:
    """Samples that models are scored on, and the latents they are scored with, the same for all models."""

    samples: Encoded
    proposal: Proposal


@dataclass(frozen=True)
class Score:
    """How one decoder does on a subject.

    Attributes:
        reconstruction: -log p(x_m | z) per modality, draw and sample.
        fidelity: Of reconstructions from the posterior mean, by metric.
        decoded: Those reconstructions.
    """

    reconstruction: dict[str, Float[Tensor, "draw batch"]]
    fidelity: dict[str, float]
    decoded: Decoded


@dataclass(frozen=True)
class Situation:
    """What all episodes start from.

    Attributes:
        pretrained: The source model.
        prior: What latents of the source are drawn from.
        replay: Source samples to rehearse.
        query: Held-out samples no episode adapts to.
        source: Source samples no model was trained on.
        query_before: The source model on the query.
        source_before: The source model on the source.
        generated_before: Scenes drawn from the source model.
        seed: Of the run.
    """

    pretrained: Pretrained
    prior: LatentPrior
    replay: Encoded
    query: Subject
    source: Subject
    query_before: Score
    source_before: Score
    generated_before: Decoded
    seed: int


@dataclass(frozen=True)
class Outcome:
    """An adapted model and what it scores.

    Attributes:
        adapter: Parameters of the decoder's adapter; empty when only the prior was re-fit.
        prior: The re-fit prior.
        metrics: By name, without `k<K>/`.
        gain_nats: NLL before minus after, per query sample.
        reconstructions: Of the query.
        generated: Scenes drawn from the adapted model.
    """

    adapter: dict[str, Tensor]
    prior: LatentPrior
    metrics: dict[str, float]
    gain_nats: Float[Tensor, " query"]
    reconstructions: Decoded
    generated: Decoded


def make_subject(pretrained: Pretrained, samples: Encoded, draws: int, seed: int) -> Subject:
    """Draw the latents that samples are scored with."""
    model = pretrained.model
    return Subject(samples, draw_proposal(samples.posterior(model), samples.present(model), draws, seed))


def score(pretrained: Pretrained, subject: Subject) -> Score:
    """Score the model as it is now, adapter included."""
    model, samples = pretrained.model, subject.samples
    posterior = samples.posterior(model)
    private = {name: gaussian.mean for name, gaussian in posterior.private.items()}
    decoded = decode_in_parts(model, posterior.shared.mean, private)
    fidelity = Fidelity(len(model.class_names))
    fidelity.update(predict(model, decoded), samples.batch)
    metrics = {name: value for name, value in fidelity.metrics().items() if name in FIDELITY}
    return Score(
        reconstruction_nll(model, pretrained.objective, samples.batch, subject.proposal), metrics, decoded
    )


def generate(pretrained: Pretrained, prior: LatentPrior, seed: int) -> Decoded:
    """Scenes from the model as it is now; equal seeds mean equal noise, whatever the prior."""
    return decode_in_parts(pretrained.model, *prior.sample(GENERATED, torch.Generator().manual_seed(seed)))


def run_episode(
    situation: Situation, support: Encoded, config: Adapt, seed: int, after_step: Callable[[float], None]
) -> Outcome:
    """Re-fit the prior, adapt the decoder (unless `config.fast`), measure.

    Args:
        situation: The source model and what is measured on.
        support: The examples.
        config: How to adapt.
        seed: Decides the adapter's start, rows, subsets and noise.
        after_step: Told the loss of each step.
    """
    pretrained, model = situation.pretrained, situation.pretrained.model
    posterior = support.posterior(model)
    prior = refit_prior(
        situation.prior,
        posterior.shared,
        posterior.private,
        support.present(model),
        config.prior_pseudo_count,
    )
    adapter = (
        {} if config.fast else adapt_decoder(pretrained, support, situation.replay, config, seed, after_step)
    )
    with decoder_adapted(model, config.rank, adapter):
        query = score(pretrained, situation.query) if adapter else situation.query_before
        source = score(pretrained, situation.source) if adapter else situation.source_before
        generated = generate(pretrained, prior, situation.seed)
    gain, metrics = _likelihoods(situation, prior, query, source)
    metrics |= _copying(situation, support, generated) | query.fidelity
    return Outcome(adapter, prior, metrics, gain, query.decoded, generated)


def _likelihoods(
    situation: Situation, prior: LatentPrior, query: Score, source: Score
) -> tuple[Float[Tensor, " query"], dict[str, float]]:
    """Gain per query sample; and means of the NLLs and of what the gain is made of."""
    before, proposal = situation.query_before.reconstruction, situation.query.proposal
    nll_before = nll_under_prior(before, proposal, situation.prior)
    nll_refit = nll_under_prior(before, proposal, prior)
    nll_after = nll_under_prior(query.reconstruction, proposal, prior)
    source_nll = [
        nll_under_prior(part.reconstruction, situation.source.proposal, situation.prior)
        for part in (situation.source_before, source)
    ]
    metrics = {
        "nll_nats": nll_after.mean(),
        "gain_prior_nats": (nll_before - nll_refit).mean(),
        "source_nll_change_nats": (source_nll[1] - source_nll[0]).mean(),
    }
    for name, rows in before.items():
        metrics[f"gain_{name}_nats"] = (rows - query.reconstruction[name]).mean()
    for name, rows in situation.source_before.reconstruction.items():
        metrics[f"source_{name}_change_nats"] = (source.reconstruction[name] - rows).mean()
    return nll_before - nll_after, {name: float(value) for name, value in metrics.items()}


def _copying(situation: Situation, support: Encoded, generated: Decoded) -> dict[str, float]:
    """How much samples copy the support; the source model, which never saw it, is the control."""
    model, info = situation.pretrained.model, situation.pretrained.info
    unseen = situation.query.samples.batch
    if len(unseen) < len(support):
        return {}

    def features(scenes: Prediction) -> Float[np.ndarray, "batch feature"]:
        return scene_features(scenes, info.depth.std_m if info.depth else 1.0, len(info.class_names))

    examples, others = features(real_scenes(support.batch)), features(real_scenes(unseen))
    after = memorisation(features(predict(model, generated)), examples, others)
    before = memorisation(features(predict(model, situation.generated_before)), examples, others)
    return {
        "memorisation": after.share,
        "memorisation_before": before.share,
        "nearest_support_ratio": after.distance_ratio,
        "nearest_support_ratio_before": before.distance_ratio,
    }
