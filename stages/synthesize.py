"""Draw labelled scenes from the trained model and write them as a dataset."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.analysis.decoded import batch_views
from pipeline.analysis.gallery import draw_samples
from pipeline.analysis.grid import save_png
from pipeline.analysis.views import Views, joined
from pipeline.config.schema import Synthesize
from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample, SplitName
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError
from pipeline.metrics.marginals import Marginals, marginal_differences
from pipeline.models.pretrained import Pretrained, load_pretrained, model_digest
from pipeline.models.prior import LatentPrior
from pipeline.models.scene import Scenes, decode_in_parts, scenes
from pipeline.models.training_prior import fit_training_prior
from pipeline.orchestration.stage import Context, Manifest

REFERENCE_SAMPLES = 1_000
"""Training samples, evenly spaced, that the latent prior is fitted to and results are compared with."""

AT_ONCE = 64
"""Scenes encoded or decoded at once."""

PICTURED, PICTURE_COLUMNS = 16, 8


def run(config: Synthesize, context: Context) -> Manifest:
    """Sample, decode, write: the stage's directory becomes a dataset with training and test scenes.

    Raises:
        InputError: If the dataset has no training samples to fit the prior to.
    """
    started_s = time.monotonic()
    dataset = ShardedDataset(context.inputs["dataset"])
    pretrained = load_pretrained(context.inputs["train"])
    reference = _reference(dataset)
    theirs, ours = Marginals(len(pretrained.info.class_names)), Marginals(len(pretrained.info.class_names))
    for batch in reference:
        views = batch_views(batch)
        theirs.add(views.depth_m, views.labels)
    prior = fit_training_prior(pretrained, reference, config.prior, config.seed)
    pictured: list[Views] = []

    def samples() -> Iterator[tuple[SplitName, Sample]]:
        number = 0
        for part in _scenes(config, pretrained, prior, context):
            ours.add(part.depth, part.seg)
            if number < PICTURED:
                pictured.append(_views(part))
            for row in range(len(part)):
                yield _split(number, config, pretrained), part.sample(row, f"synthetic-{number:06d}")
                number += 1

    info = write_dataset(
        context.directory,
        samples(),
        class_names=pretrained.info.class_names,
        image_size=pretrained.info.image_size,
        depth_scale_m=pretrained.info.depth_scale_m,
        source={"kind": "synthetic", "model_sha256": model_digest(context.inputs["train"])}
        | config.model_dump(mode="json"),
    )
    save_png(
        context.directory / "pictures" / "samples.png",
        draw_samples(pretrained.info, joined(pictured)[:PICTURED], PICTURE_COLUMNS),
    )
    metrics = {f"prior/{name}": value for name, value in marginal_differences(ours, theirs).items()}
    return Manifest(
        metrics=metrics | {f"samples/{split}": float(count) for split, count in info.counts.items()},
        headline=("samples/train", *(name for name in ("prior/class_frequency_tv",) if name in metrics)),
        outputs={"dataset": ".", "pictures": "pictures"},
        timing={"synthesize_s": time.monotonic() - started_s},
    )


def _reference(dataset: ShardedDataset) -> list[Batch]:
    total = dataset.length("train")
    if not total:
        raise InputError(f"synthesize: the dataset has no training samples (it has {dataset.info.counts})")
    rows = np.unique(np.linspace(0, total - 1, min(total, REFERENCE_SAMPLES)).round().astype(np.int64))
    return [dataset.read("train", rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]


def _scenes(
    config: Synthesize, pretrained: Pretrained, prior: LatentPrior, context: Context
) -> Iterator[Scenes]:
    """All scenes, part by part; each part has noise of its own, so memory does not grow with the count."""
    model, depth = pretrained.model, pretrained.info.depth
    context.progress.start("scenes", config.count, "scenes")
    for start in range(0, config.count, AT_ONCE):
        count = min(AT_ONCE, config.count - start)
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([config.seed, start]).generate_state(1)[0])
        )
        yield scenes(model, decode_in_parts(model, *prior.sample(count, generator)), depth)
        context.progress.advance(count)
    context.progress.finish()


def _split(number: int, config: Synthesize, pretrained: Pretrained) -> SplitName:
    """Test scenes are spread evenly, in the proportion of the source dataset; the last is always one."""
    counts = pretrained.info.counts
    train, test = counts.get("train", 0), counts.get("test", 0)
    share = test / (train + test) if test else 0.1
    quota = max(1, round(share * config.count)) / config.count
    return "test" if int((number + 1) * quota) > int(number * quota) else "train"


def _views(part: Scenes) -> Views:
    rgb = (
        None if part.rgb is None else (part.rgb.transpose(0, 3, 1, 2) / np.float32(255.0)).astype(np.float32)
    )
    return Views(rgb, part.depth, part.seg)
