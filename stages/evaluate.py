"""Score a trained model on the test split: every set of given modalities, every metric, and pictures."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.analysis.comparison_samples import shown_scenes
from pipeline.analysis.decoded import batch_views, decoded_views
from pipeline.analysis.gallery import (
    draw_overview,
    draw_reconstructions,
    draw_samples,
    draw_translations,
    known_only,
)
from pipeline.analysis.generated import Reference, reference_rows, score_generated
from pipeline.analysis.grid import save_png
from pipeline.analysis.scenes_file import SCENES, save_scenes
from pipeline.analysis.views import Views
from pipeline.config.schema import Evaluate
from pipeline.config.system import has_likelihood
from pipeline.data.batch import Batch
from pipeline.data.loader.batches import sequential_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.metrics.constant import constant_scene
from pipeline.metrics.features import feature_digest, load_features, spread
from pipeline.metrics.fidelity import Fidelity, predict
from pipeline.metrics.likelihood import draw_noise, model_nll, noise_rows
from pipeline.models.pretrained import Pretrained, load_pretrained
from pipeline.models.prior import PRIOR_FILE, LatentPrior, save_prior
from pipeline.models.training_prior import fit_training_prior
from pipeline.models.variables import Decoded, Experts
from pipeline.orchestration.dataset_features import dataset_features
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest

CONSTANT_SAMPLES = 2_000
"""Most training samples that the constant scene is computed from, evenly spaced."""

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
    _refuse_broken(metrics)
    generating_s = time.monotonic()
    prior = fit_training_prior(
        evaluation.pretrained,
        (batch.to(evaluation.device) for batch in _spread_batches(evaluation, "train", PRIOR_SAMPLES)),
        config.prior,
        context.seed,
    )
    save_prior(context.directory / PRIOR_FILE, prior)
    metrics |= score_generation(evaluation, prior, context)
    _refuse_broken(metrics)
    generating_s = time.monotonic() - generating_s
    with torch.inference_mode():
        draw_pictures(evaluation, prior, context.directory / PICTURES)
    return Manifest(
        metrics=metrics,
        headline=tuple(name for name in headline(evaluation.pretrained.info.modalities) if name in metrics),
        outputs={"pictures": PICTURES, "prior": PRIOR_FILE},
        timing={
            "evaluate_s": time.monotonic() - started_s,
            "scoring_s": scored_s,
            "generation_s": generating_s,
            "scored_samples_per_s": evaluation.samples / scored_s,
        },
    )


def score_subsets(evaluation: Evaluation) -> dict[str, float]:
    """Decode the posterior mean given every subset of modalities and compare it with all that is present.

    A subset is scored on the rows that have all of its modalities. Rows are encoded once. Where there are
    no encoders, codes are found by inversion, for the first few rows.
    """
    model, info = evaluation.pretrained.model, evaluation.pretrained.info
    subsets = given_subsets(info.modalities)
    scores = {given: Fidelity(len(info.class_names)) for given in subsets}
    samples = evaluation.samples
    if model.posterior_kind == "none":
        samples = min(samples, evaluation.config.inversion_samples)
    evaluation.progress.start("scoring", samples, "samples")
    for batch in sequential_batches(evaluation.dataset, "test", evaluation.config.batch, samples):
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
    """-log p of rows that have every modality, in nats: the mean of an importance-weighted bound.

    Nothing for a system without a likelihood.
    """
    config, pretrained = evaluation.config, evaluation.pretrained
    if not config.nll_samples or not has_likelihood(pretrained.model_config, pretrained.objective):
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


def score_generation(evaluation: Evaluation, prior: LatentPrior, context: Context) -> dict[str, float]:
    """Compare generated scenes with real ones, as sets; GENERATION says by what yardstick."""
    config, dataset, progress = evaluation.config, evaluation.dataset, evaluation.progress
    rows = reference_rows(dataset, evaluation.samples, config.generated)
    if rows is None:
        return {}
    path = dataset_features(
        context.root, context.inputs["dataset"], dataset, progress, context.stop_requested
    )
    reference = Reference(dataset, load_features(path, dataset.info), *rows, config.batch)
    progress.start("generated", len(reference.test_rows), "scenes")
    with torch.inference_mode():
        metrics = score_generated(
            evaluation.pretrained.model, prior, reference, evaluation.seed, progress.advance
        )
    progress.finish()
    yardstick = {"features": path.name, "features_sha256": feature_digest(path), "prior": config.prior}
    write_json(context.directory / GENERATION, yardstick)
    return metrics


def draw_pictures(evaluation: Evaluation, prior: LatentPrior, directory: Path) -> None:
    """Reconstructions, translations, samples from the fitted prior, and one figure of all of them.

    A few scenes are kept as numbers beside the directory, for figures of several systems.
    """
    info, columns = evaluation.pretrained.info, evaluation.config.pictures
    batch = evaluation.dataset.read("test", spread(evaluation.samples, columns))
    experts = evaluation.pretrained.model.encode(batch.to(evaluation.device))
    real = batch_views(batch)
    reconstructed = _translate(evaluation, experts, info.modalities)
    save_png(directory / "reconstructions.png", draw_reconstructions(info, real, reconstructed))
    alone = {name: _translate(evaluation, experts, (name,)) for name in info.modalities}
    if len(info.modalities) > 1:
        save_png(directory / "translations.png", draw_translations(info, real, alone))
    samples = sample_prior(evaluation, prior, 2 * columns)
    save_png(directory / "samples.png", draw_samples(info, samples, columns))
    first = alone[info.modalities[0]] if len(info.modalities) > 1 else None
    save_png(directory / "overview.png", draw_overview(info, real, reconstructed, first, samples))
    save_scenes(directory.with_name(SCENES), shown_scenes(real, reconstructed, first, samples))


def sample_prior(evaluation: Evaluation, prior: LatentPrior, count: int) -> Views:
    """Scenes decoded from latents drawn from the prior.

    Where the posteriors leave N(0, I) far behind, as those of a short training do, draws from N(0, I)
    are latents that the decoders have never seen, so the prior is fitted.
    """
    model, device = evaluation.pretrained.model, evaluation.device
    shared, private = prior.sample(count, torch.Generator().manual_seed(evaluation.seed))
    decoded = model.decode(shared.to(device), {name: value.to(device) for name, value in private.items()})
    return decoded_views(model, decoded)


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


def _refuse_broken(metrics: Mapping[str, float]) -> None:
    if broken := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise InputError(
            f"evaluate: {broken[0]} is {metrics[broken[0]]}: the trained model is broken; "
            f"look at its history.jsonl and train again, perhaps with a lower train.learning_rate"
        )


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
