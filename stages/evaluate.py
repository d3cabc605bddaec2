"""Score a trained model on the test split: every set of given modalities, every metric, and pictures."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.analysis.decoded import batch_views, decoded_views
from pipeline.analysis.gallery import (
    draw_overview,
    draw_reconstructions,
    draw_samples,
    draw_translations,
    known_only,
)
from pipeline.analysis.grid import save_png
from pipeline.analysis.views import Views
from pipeline.config.schema import Evaluate
from pipeline.data.batch import Batch
from pipeline.data.loader.batches import sequential_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.errors import InputError
from pipeline.metrics.constant import constant_scene
from pipeline.metrics.fidelity import Fidelity, predict
from pipeline.metrics.likelihood import draw_noise, model_nll, noise_rows
from pipeline.models.autoencoder import Decoded, Experts
from pipeline.models.encoded import encoded
from pipeline.models.pretrained import Pretrained, load_pretrained
from pipeline.models.prior import fit_aggregate_prior
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest

CONSTANT_SAMPLES = 2_000
"""Most training samples that the constant scene is computed from, evenly spaced."""

PRIOR_SAMPLES = 500
"""Most training samples whose posteriors the prior of the sample pictures is fitted to."""

PICTURES = "pictures"

HEADLINE = {"rgb": "rgb_psnr_db", "depth": "depth_absrel", "seg": "seg_miou"}
"""The metric of each modality that tables show: given everything, and given the first modality alone."""


@dataclass(frozen=True)
class Evaluation:
    """What every part of the stage works with.

    Attributes:
        pretrained: The model, on `device`.
        dataset: What it is scored on.
        samples: How many test samples; the first so many.
        device: Where the model computes.
        config: The stage's part of the config.
        seed: The run's seed.
        progress: Shows how far it is.
    """

    pretrained: Pretrained
    dataset: ShardedDataset
    samples: int
    device: torch.device
    config: Evaluate
    seed: int
    progress: Progress


def run(config: Evaluate, context: Context) -> Manifest:
    """Write `pictures/` and return the metrics that docs/metrics.md defines.

    Raises:
        InputError: If there is nothing to test on, or the model gives a number that is not finite.
    """
    started_s = time.monotonic()
    evaluation = _open(config, context)
    with torch.inference_mode():
        metrics = score_subsets(evaluation)
        scored_s = time.monotonic() - started_s
        metrics |= score_likelihood(evaluation)
        metrics |= score_constant(evaluation)
        draw_pictures(evaluation, context.directory / PICTURES)
    if broken := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise InputError(
            f"evaluate: {broken[0]} is {metrics[broken[0]]}: the trained model is broken; "
            f"look at its history.jsonl and train again, perhaps with a lower train.learning_rate"
        )
    return Manifest(
        metrics=metrics,
        headline=tuple(name for name in headline(evaluation.pretrained.info.modalities) if name in metrics),
        outputs={"pictures": PICTURES},
        timing={
            "evaluate_s": time.monotonic() - started_s,
            "scoring_s": scored_s,
            "scored_samples_per_s": evaluation.samples / scored_s,
        },
    )


def score_subsets(evaluation: Evaluation) -> dict[str, float]:
    """Decode the posterior mean given every subset of modalities and compare it with all that is present.

    A subset is scored on the rows that have all of its modalities. Rows are encoded once.
    """
    model, info = evaluation.pretrained.model, evaluation.pretrained.info
    subsets = given_subsets(info.modalities)
    scores = {given: Fidelity(len(info.class_names)) for given in subsets}
    evaluation.progress.start("scoring", evaluation.samples, "samples")
    for batch in sequential_batches(evaluation.dataset, "test", evaluation.config.batch, evaluation.samples):
        moved = batch.to(evaluation.device)
        experts = model.encode(moved)
        for given, fidelity in scores.items():
            rows = _has_all(info.modalities, experts.present, given)
            if bool(rows.any()):
                fidelity.update(predict(model, decode_mean(evaluation, experts, given)), moved, rows)
        evaluation.progress.advance(len(batch))
    evaluation.progress.finish()
    return _named({"+".join(given): fidelity for given, fidelity in scores.items()})


def score_constant(evaluation: Evaluation) -> dict[str, float]:
    """The floor: the same scene for every row, made of the training data."""
    classes = len(evaluation.pretrained.info.class_names)
    scene = constant_scene(_spread_batches(evaluation, "train", CONSTANT_SAMPLES), classes)
    fidelity = Fidelity(classes)
    for batch in sequential_batches(evaluation.dataset, "test", evaluation.config.batch, evaluation.samples):
        fidelity.update(scene, batch)
    return _named({"constant": fidelity})


def score_likelihood(evaluation: Evaluation) -> dict[str, float]:
    """-log p of rows that have every modality, in nats: the mean of an importance-weighted bound."""
    config, pretrained = evaluation.config, evaluation.pretrained
    if not config.nll_samples:
        return {}
    rows = spread(evaluation.samples, config.nll_samples)
    generator = torch.Generator().manual_seed(evaluation.seed)
    noise = draw_noise(pretrained.model, len(rows), config.nll_importance, generator)
    total, count = 0.0, 0
    evaluation.progress.start("likelihood", len(rows), "samples")
    for first in range(0, len(rows), config.batch):
        batch = evaluation.dataset.read("test", rows[first : first + config.batch]).to(evaluation.device)
        draws = noise_rows(noise, first, first + len(batch), evaluation.device)
        complete = batch.present().all(dim=0)
        nats = model_nll(pretrained.model, batch, pretrained.objective, draws)
        total, count = total + float(nats[complete].sum()), count + int(complete.sum())
        evaluation.progress.advance(len(batch))
    evaluation.progress.finish()
    return {f"{'+'.join(pretrained.info.modalities)}/nll_nats": total / count} if count else {}


def draw_pictures(evaluation: Evaluation, directory: Path) -> None:
    """Reconstructions, translations, samples from the fitted prior, and one figure of all of them."""
    info, columns = evaluation.pretrained.info, evaluation.config.pictures
    batch = evaluation.dataset.read("test", spread(evaluation.samples, columns))
    experts = evaluation.pretrained.model.encode(batch.to(evaluation.device))
    real = batch_views(batch)
    reconstructed = _translate(evaluation, experts, info.modalities)
    save_png(directory / "reconstructions.png", draw_reconstructions(info, real, reconstructed))
    alone = {name: _translate(evaluation, experts, (name,)) for name in info.modalities}
    if len(info.modalities) > 1:
        save_png(directory / "translations.png", draw_translations(info, real, alone))
    samples = sample_prior(evaluation, 2 * columns)
    save_png(directory / "samples.png", draw_samples(info, samples, columns))
    first = alone[info.modalities[0]] if len(info.modalities) > 1 else None
    save_png(directory / "overview.png", draw_overview(info, real, reconstructed, first, samples))


def sample_prior(evaluation: Evaluation, count: int) -> Views:
    """Scenes decoded from latents drawn from a Gaussian fitted to the training set's posteriors.

    Where the posteriors leave N(0, I) far behind, as those of a short training do, draws from N(0, I)
    are latents that the decoders have never seen.
    """
    model = evaluation.pretrained.model.cpu()
    samples = encoded(model, _spread_batches(evaluation, "train", PRIOR_SAMPLES))
    posterior = samples.posterior(model)
    prior = fit_aggregate_prior(posterior.shared, posterior.private, samples.present(model))
    latents = prior.sample(count, torch.Generator().manual_seed(evaluation.seed))
    return decoded_views(model, model.decode(*latents))


def decode_mean(evaluation: Evaluation, experts: Experts, given: Sequence[str]) -> Decoded:
    """What the posterior mean decodes to; private latents of what is not given are at their prior mean."""
    model = evaluation.pretrained.model
    seen = torch.tensor([name in given for name in model.modalities], device=evaluation.device)
    posterior = model.posterior(experts, seen[:, None].expand_as(experts.present))
    return model.decode(posterior.shared.mean, {name: q.mean for name, q in posterior.private.items()})


def given_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the largest first, each in the order of the modalities."""
    return [subset for size in range(len(modalities), 0, -1) for subset in combinations(modalities, size)]


def headline(modalities: Sequence[str]) -> list[str]:
    """Names of the few metrics that say most."""
    everything, first = "+".join(modalities), modalities[0]
    return [f"{everything}/{HEADLINE[name]}" for name in modalities] + [
        f"{first}/{HEADLINE[name]}" for name in modalities[1:]
    ]


def spread(length: int, count: int) -> np.ndarray:
    """At most `count` row numbers, evenly spaced from the first to the last of `length`."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))


def _open(config: Evaluate, context: Context) -> Evaluation:
    dataset = ShardedDataset(context.inputs["dataset"])
    pretrained = load_pretrained(context.inputs["train"])
    length = dataset.length("test")
    if not length:
        raise InputError(
            f"{context.inputs['dataset']}: there are no test samples; "
            f"raise data.test_fraction or name some in the source's split list"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pretrained.model.to(device)
    samples = length if config.limit is None else min(config.limit, length)
    return Evaluation(pretrained, dataset, samples, device, config, context.seed, context.progress)


def _translate(evaluation: Evaluation, experts: Experts, given: Sequence[str]) -> Views:
    """Everything decoded from what is given; nothing is known of rows that lack it."""
    views = decoded_views(evaluation.pretrained.model, decode_mean(evaluation, experts, given))
    rows = _has_all(evaluation.pretrained.info.modalities, experts.present, given)
    return known_only(views, rows.cpu().numpy())


def _has_all(
    modalities: Sequence[str], present: Bool[Tensor, "modality batch"], given: Sequence[str]
) -> Bool[Tensor, " batch"]:
    return present[[modalities.index(name) for name in given]].all(dim=0)


def _spread_batches(evaluation: Evaluation, split: str, count: int) -> Iterator[Batch]:
    rows = spread(evaluation.dataset.length(split), count)
    for first in range(0, len(rows), evaluation.config.batch):
        yield evaluation.dataset.read(split, rows[first : first + evaluation.config.batch])


def _named(scores: dict[str, Fidelity]) -> dict[str, float]:
    return {
        f"{given}/{name}": value
        for given, fidelity in scores.items()
        for name, value in fidelity.metrics().items()
    }
