"""Score a trained model on the test split: every set of given modalities, every metric, and pictures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pipeline.analysis.evaluation_pictures import draw_pictures
from pipeline.analysis.generated import (
    Reference,
    describe_generated,
    describe_known,
    describe_searched,
    draw_latents,
    reference_rows,
    score_generated,
)
from pipeline.analysis.scoring import (
    Scored,
    fidelity_metrics,
    likelihood_metrics,
    likelihood_of,
    refuse_broken,
    score_rows,
)
from pipeline.config.schema import Evaluate
from pipeline.config.system import has_likelihood
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.metrics.constant import constant_scene, pixel_sums
from pipeline.metrics.features import feature_digest, load_features, spread
from pipeline.metrics.likelihood import draw_noise
from pipeline.models.pretrained import load_pretrained
from pipeline.models.prior import PRIOR_FILE, LatentPrior, save_prior
from pipeline.models.training_prior import fit_training_prior, needs_posteriors, training_posteriors
from pipeline.orchestration.dataset_features import dataset_features
from pipeline.orchestration.distributed import own_device
from pipeline.orchestration.shares import Result, Shares, Task, cut, shared_prior, sizes
from pipeline.orchestration.stage import Context, Manifest

CONSTANT_SAMPLES = 2_000
"""Most training samples that the constant scene is computed from, evenly spaced."""

CONSTANT_PART = 500
"""Of them in a part, about."""

PRIOR_SAMPLES = 1_500
"""Most training samples whose posteriors the latent prior is fitted to, evenly spaced."""

PICTURES = "pictures"
GENERATION = "generation.json"
"""What the scores of generated scenes were measured with."""

HEADLINE = {"rgb": "rgb_psnr_db", "depth": "depth_absrel", "seg": "seg_miou"}
"""The metric of each modality that tables show: given everything, and given the first modality alone."""


@dataclass(frozen=True)
class Evaluation:
    """What every part of the stage works with.

    Attributes:
        scored: The model and the scenes.
        samples: How many test samples; the first so many.
        config: The stage's part of the config.
        context: Of the stage.
        shares: This process's share of the work.
    """

    scored: Scored
    samples: int
    config: Evaluate
    context: Context
    shares: Shares

    @cached_property
    def decoded_samples(self) -> int:
        """How many are decoded: where codes are found by inversion, the first few."""
        inverted = self.scored.pretrained.model.posterior_kind == "none"
        return min(self.samples, self.config.inversion_samples) if inverted else self.samples


def run(config: Evaluate, context: Context) -> Manifest:
    """Write `pictures/` and return the metrics that docs/metrics.md defines.

    Raises:
        InputError: If there is nothing to test on, or the model gives a number that is not finite.
    """
    started_s = time.monotonic()
    evaluation = _open(config, context)
    fidelity, likelihood = score_real(evaluation)
    scored_s = time.monotonic() - started_s
    generating_s = time.monotonic()
    prior = fit_prior(evaluation)
    generation = score_sets(evaluation, prior)
    if not context.world.is_main:
        return Manifest()
    shares, scored = evaluation.shares, evaluation.scored
    metrics = fidelity_metrics(scored, shares.results(fidelity))
    metrics |= likelihood_metrics(scored, shares.results(likelihood))
    metrics |= score_generated(*map(shares.results, generation)) if generation else {}
    refuse_broken(metrics)
    generating_s = time.monotonic() - generating_s
    save_prior(context.directory / PRIOR_FILE, prior)
    with torch.inference_mode():
        directory = context.directory / PICTURES
        draw_pictures(scored, evaluation.samples, config.pictures, prior, context.seed, directory)
    return Manifest(
        metrics=metrics,
        headline=tuple(name for name in headline(scored.pretrained.info.modalities) if name in metrics),
        outputs={"pictures": PICTURES, "prior": PRIOR_FILE},
        timing={
            "evaluate_s": time.monotonic() - started_s,
            "scoring_s": scored_s,
            "generation_s": generating_s,
            "scored_samples_per_s": evaluation.samples / scored_s,
        },
    )


def score_real(evaluation: Evaluation) -> tuple[Task, Task]:
    """Every subset of modalities on the test split; and -log p of rows that have every modality, in nats.

    -log p is the mean of an importance-weighted bound; there is none in a system without a likelihood.
    """
    config, scored, shares = evaluation.config, evaluation.scored, evaluation.shares
    pretrained = scored.pretrained
    scene = constant_scene(shares.results(_pixel_sums(evaluation)))

    @torch.inference_mode()
    def score(number: int) -> Result:
        part = parts[number]
        rows = np.arange(part.start, part.stop)
        return score_rows(scored, rows, scene, decode=part.start < evaluation.decoded_samples)

    seen, samples = evaluation.decoded_samples, evaluation.samples
    rest = [slice(seen + part.start, seen + part.stop) for part in cut(samples - seen, config.batch)]
    parts = [*cut(seen, config.batch), *rest]
    fidelity = Task("scoring", sizes(parts), score, "samples")
    shares.make(fidelity)

    wanted = config.nll_samples if has_likelihood(pretrained.model_config, pretrained.objective) else 0
    rows = spread(samples, wanted)
    generator = torch.Generator().manual_seed(evaluation.context.seed)
    noise = draw_noise(pretrained.model, len(rows), config.nll_importance, generator)
    estimated = cut(len(rows), config.batch)

    @torch.inference_mode()
    def estimate(number: int) -> Result:
        part = estimated[number]
        return likelihood_of(scored, rows[part], noise, part.start)

    likelihood = Task("likelihood", sizes(estimated), estimate, "samples")
    shares.make(likelihood)
    return fidelity, likelihood


def fit_prior(evaluation: Evaluation) -> LatentPrior:
    """What scenes are drawn from: one process fits it to what all have encoded, and all get it."""
    config, shares, context = evaluation.config, evaluation.shares, evaluation.context
    scored, pretrained = evaluation.scored, evaluation.scored.pretrained
    fitted = needs_posteriors(pretrained, config.prior)
    rows = spread(scored.dataset.length("train"), PRIOR_SAMPLES if fitted else 0)
    parts = cut(len(rows), config.batch)

    def posteriors(number: int) -> Result:
        batch = scored.dataset.read("train", rows[parts[number]])
        return training_posteriors(pretrained, batch.to(scored.device))

    task = Task("posteriors", sizes(parts), posteriors, "samples")
    shares.make(task)

    return shared_prior(
        shares, lambda: fit_training_prior(pretrained, shares.results(task), config.prior, context.seed)
    )


def score_sets(evaluation: Evaluation, prior: LatentPrior) -> tuple[Task, Task, Task] | None:
    """Generated, known and searched scenes, described to be compared as sets; GENERATION says how."""
    config, scored, context = evaluation.config, evaluation.scored, evaluation.context
    rows = reference_rows(scored.dataset, evaluation.samples, config.generated)
    if rows is None:
        return None
    path = _features(evaluation)
    if context.world.is_main:
        yardstick = {"features": path.name, "features_sha256": feature_digest(path), "prior": config.prior}
        write_json(context.directory / GENERATION, yardstick)
    reference = Reference(scored.dataset, load_features(path, scored.dataset.info), *rows)
    made = cut(len(reference.test_rows), config.batch)
    latents = draw_latents(prior, sizes(made), context.seed)

    @torch.inference_mode()
    def describe(number: int) -> Result:
        return describe_generated(scored.pretrained.model, latents[number], reference, made[number])

    known, searched = (cut(len(r), config.batch) for r in (reference.known_rows, reference.searched_rows))
    tasks = (
        Task("generated", sizes(made), describe, "scenes"),
        Task("real", sizes(known), lambda number: describe_known(reference, known[number]), "scenes"),
        Task(
            "training",
            sizes(searched),
            lambda number: describe_searched(reference, searched[number]),
            "scenes",
        ),
    )
    for task in tasks:
        evaluation.shares.make(task)
    return tasks


def headline(modalities: Sequence[str]) -> list[str]:
    """Names of the few metrics that say most."""
    everything, first = "+".join(modalities), modalities[0]
    return [f"{everything}/{HEADLINE[name]}" for name in modalities] + [
        f"{first}/{HEADLINE[name]}" for name in modalities[1:]
    ]


def _open(config: Evaluate, context: Context) -> Evaluation:
    dataset = ShardedDataset(context.inputs["dataset"])
    pretrained = load_pretrained(context.inputs["train"])
    length = dataset.length("test")
    if not length:
        raise InputError(
            f"{context.inputs['dataset']}: there are no test samples; "
            f"raise data.test_fraction or name some in the source's split list"
        )
    device = own_device(context.world)
    pretrained.model.to(device)
    samples = length if config.limit is None else min(config.limit, length)
    return Evaluation(Scored(pretrained, dataset, device), samples, config, context, Shares(context))


def _pixel_sums(evaluation: Evaluation) -> Task:
    """What the constant scene is made of."""
    scored, batch = evaluation.scored, evaluation.config.batch
    rows = spread(scored.dataset.length("train"), CONSTANT_SAMPLES)
    parts = cut(len(rows), batch * max(1, CONSTANT_PART // batch))

    def add_up(number: int) -> Result:
        own = rows[parts[number]]
        batches = (scored.dataset.read("train", own[part]) for part in cut(len(own), batch))
        return pixel_sums(batches, len(scored.pretrained.info.class_names))

    task = Task("mean scene", sizes(parts), add_up, "samples")
    evaluation.shares.make(task)
    return task


def _features(evaluation: Evaluation) -> Path:
    """The file of the dataset's features, which one process makes if nobody has yet."""
    context = evaluation.context

    def find() -> Path:
        return dataset_features(
            context.root,
            context.inputs["dataset"],
            evaluation.scored.dataset,
            context.progress,
            context.stop_requested,
        )

    def make() -> Result:
        find()
        return {}

    evaluation.shares.only(evaluation.shares.once("features", make))
    return find()
