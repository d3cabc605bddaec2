"""Draw labelled scenes from the trained model and write them as a dataset."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.analysis.decoded import batch_views
from pipeline.analysis.gallery import draw_samples
from pipeline.analysis.grid import save_png
from pipeline.analysis.views import Views
from pipeline.config.schema import Synthesize
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample, SplitName
from pipeline.data.shards.dataset import INFO, read_info, write_part
from pipeline.data.shards.merge import Facts, merge
from pipeline.data.shards.parts import PARTS
from pipeline.data.shards.tally import Tally
from pipeline.errors import InputError
from pipeline.metrics.features import spread
from pipeline.metrics.marginals import Marginals, marginal_differences
from pipeline.models.pretrained import Pretrained, load_pretrained, model_digest
from pipeline.models.prior import LatentPrior
from pipeline.models.scene import Scenes, decode_in_parts, scenes
from pipeline.models.training_prior import fit_training_prior, needs_posteriors, training_posteriors
from pipeline.orchestration.distributed import own_device
from pipeline.orchestration.shares import Result, Shares, Task, cut, shared_prior, sizes
from pipeline.orchestration.stage import Context, Manifest

REFERENCE_SAMPLES = 1_000
"""Training samples, evenly spaced, that the latent prior is fitted to and results are compared with."""

AT_ONCE = 64
"""Scenes encoded or decoded at once."""

PART = 4 * AT_ONCE
"""Scenes that one process makes without another looking at them."""

PICTURED, PICTURE_COLUMNS = 16, 8


def run(config: Synthesize, context: Context) -> Manifest:
    """Sample, decode, write: the stage's directory becomes a dataset with training and test scenes.

    Raises:
        InputError: If the dataset has no training samples to fit the prior to.
    """
    started_s = time.monotonic()
    pretrained = load_pretrained(context.inputs["train"])
    pretrained.model.to(own_device(context.world))
    merged = (context.directory / INFO).exists()
    shares = Shares(context, [path.name for path in context.directory.iterdir()] if merged else [PARTS])
    reference = _describe_reference(config, pretrained, ShardedDataset(context.inputs["dataset"]), shares)
    prior = shared_prior(
        shares,
        lambda: fit_training_prior(pretrained, shares.results(reference), config.prior, config.seed),
    )
    written = _write_scenes(config, pretrained, prior, context, shares)
    if not context.world.is_main:
        return Manifest()
    classes = len(pretrained.info.class_names)
    theirs, ours = Marginals(classes), Marginals(classes)
    for part in shares.results(reference):
        theirs.add_sums(part)
    pictured: dict[str, np.ndarray] = {}
    for part in shares.results(written):
        ours.add_sums(part)
        pictured |= {name.removeprefix("shown/"): a for name, a in part.items() if name.startswith("shown/")}
    if not merged:
        merge(context.directory, _facts(config, pretrained, context), Tally(config.count))
    counts = read_info(context.directory).counts
    save_png(
        context.directory / "pictures" / "samples.png",
        draw_samples(pretrained.info, Views(**pictured), PICTURE_COLUMNS),
    )
    metrics = {f"prior/{name}": value for name, value in marginal_differences(ours, theirs).items()}
    return Manifest(
        metrics=metrics | {f"samples/{split}": float(count) for split, count in counts.items()},
        headline=("samples/train", *(name for name in ("prior/class_frequency_tv",) if name in metrics)),
        outputs={"dataset": ".", "pictures": "pictures"},
        timing={"synthesize_s": time.monotonic() - started_s},
    )


def _describe_reference(
    config: Synthesize, pretrained: Pretrained, dataset: ShardedDataset, shares: Shares
) -> Task:
    """Training samples: what the prior is fitted to, and what results are compared with.

    Raises:
        InputError: If there are none.
    """
    total = dataset.length("train")
    if not total:
        raise InputError(f"synthesize: the dataset has no training samples (it has {dataset.info.counts})")
    rows = spread(total, REFERENCE_SAMPLES)
    parts = cut(len(rows), AT_ONCE)
    device = next(pretrained.model.parameters()).device

    def describe(number: int) -> Result:
        batch = dataset.read("train", rows[parts[number]])
        views, marginals = batch_views(batch), Marginals(len(pretrained.info.class_names))
        marginals.add(views.depth_m, views.labels)
        if not needs_posteriors(pretrained, config.prior):
            return marginals.sums()
        return marginals.sums() | training_posteriors(pretrained, batch.to(device))

    task = Task("real scenes", sizes(parts), describe, "samples")
    shares.make(task)
    return task


def _write_scenes(
    config: Synthesize, pretrained: Pretrained, prior: LatentPrior, context: Context, shares: Shares
) -> Task:
    """All scenes, as parts of a dataset; what is compared and shown of them is kept beside."""
    info = pretrained.info
    parts = cut(config.count, PART)

    def write(number: int) -> Result:
        marginals, shown = Marginals(len(info.class_names)), {}

        def samples() -> Iterator[tuple[SplitName, Sample]]:
            for start in range(parts[number].start, parts[number].stop, AT_ONCE):
                made = _draw(config, pretrained, prior, start, min(AT_ONCE, parts[number].stop - start))
                marginals.add(made.depth, made.seg)
                if start == 0:
                    shown.update(_views(made)[:PICTURED].arrays())
                for row in range(len(made)):
                    split = _split(start + row, config, pretrained)
                    yield split, made.sample(row, f"synthetic-{start + row:06d}")
                shares.advance(len(made))

        write_part(
            context.directory,
            number,
            samples(),
            image_size=info.image_size,
            depth_scale_m=info.depth_scale_m,
        )
        return marginals.sums() | {f"shown/{name}": array for name, array in shown.items()}

    task = Task("scenes", sizes(parts), write, "scenes")
    shares.make(task)
    return task


def _draw(config: Synthesize, pretrained: Pretrained, prior: LatentPrior, start: int, count: int) -> Scenes:
    """Some scenes; those that begin at a number have noise of their own."""
    model = pretrained.model
    device = next(model.parameters()).device
    seed = int(np.random.SeedSequence([config.seed, start]).generate_state(1)[0])
    shared, private = prior.sample(count, torch.Generator().manual_seed(seed))
    own = {name: latent.to(device) for name, latent in private.items()}
    return scenes(model, decode_in_parts(model, shared.to(device), own), pretrained.info.depth)


def _facts(config: Synthesize, pretrained: Pretrained, context: Context) -> Facts:
    described = {"kind": "synthetic", "model_sha256": model_digest(context.inputs["train"])}
    return Facts(
        class_names=pretrained.info.class_names,
        image_size=pretrained.info.image_size,
        depth_scale_m=pretrained.info.depth_scale_m,
        source=described | config.model_dump(mode="json"),
    )


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
