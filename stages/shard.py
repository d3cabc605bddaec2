"""From a source to a dataset directory."""

import time
from collections.abc import Iterator
from itertools import chain

from pipeline.config.data import Data
from pipeline.data.modality import SPLITS, SplitName
from pipeline.data.parallel import ordered_map
from pipeline.data.refusal import Refusal
from pipeline.data.shards.dataset import write_dataset
from pipeline.data.shards.encoded import loader_for
from pipeline.data.shards.findings import Findings
from pipeline.data.shards.members import EncodedSample
from pipeline.data.sources import open_source
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.splits import held_out_labels
from pipeline.orchestration.stage import Context, Manifest

CHUNK = 32
"""Entries a worker is given at once."""


def run(config: Data, context: Context) -> Manifest:
    """Load every sample of the source, in as many processes as asked for, and write the dataset.

    Raises:
        InputError: If the source cannot be read, too much of it was refused, or a split is empty.
    """
    catalogue = open_source(config)
    for note in catalogue.notes:
        context.progress.say(note)
    started_s = time.monotonic()
    info = write_dataset(
        context.directory,
        _samples(catalogue, config, context),
        class_names=catalogue.class_names,
        image_size=config.image_size,
        encoding=config.encoding,
        shard_samples=config.shard_samples,
        factors=catalogue.factors,
        source=catalogue.description,
        depth_scale_m=catalogue.depth_scale_m,
    )
    elapsed_s = time.monotonic() - started_s
    counts = {f"samples/{split}": float(info.counts.get(split, 0)) for split in SPLITS}
    return Manifest(
        metrics={**counts, "quarantined": float(sum(info.quarantine.values()))},
        headline=("samples/train", "samples/test", "samples/heldout", "quarantined"),
        outputs={},
        timing={"seconds": elapsed_s, "samples_per_s": sum(info.counts.values()) / max(elapsed_s, 1e-9)},
    )


def _samples(
    catalogue: Catalogue, config: Data, context: Context
) -> Iterator[tuple[SplitName, EncodedSample] | Refusal]:
    """Every sample with its split, loaded in parallel; at the end, what a person should know."""
    apart = held_out_labels(config.held_out.classes, catalogue.class_names)
    entries = catalogue.entries
    chunks = [entries[first : first + CHUNK] for first in range(0, len(entries), CHUNK)]
    loaded = chain.from_iterable(ordered_map(loader_for(catalogue, config), chunks, config.workers))
    findings = Findings(total=len(entries))
    tracked = context.progress.track(loaded, "samples", len(entries), "samples")
    for split, sample in zip(catalogue.splits, tracked, strict=True):
        if isinstance(sample, Refusal):
            findings.refuse(sample)
            yield sample
        else:
            chosen = split if apart.isdisjoint(sample.labels) else "heldout"
            findings.accept(chosen, sample)
            yield chosen, sample
    for line in findings.lines():
        context.progress.say(line)
