"""From a source to a dataset directory."""

import time
from collections import Counter
from collections.abc import Iterator

from pipeline.config.schema import Data
from pipeline.data.members import EncodedSample
from pipeline.data.modality import SPLITS, SplitName
from pipeline.data.parallel import ordered_map, processor_count
from pipeline.data.refusal import Refusal
from pipeline.data.shards import write_dataset
from pipeline.data.sources import Catalogue, loader_for, open_source
from pipeline.data.splits import check_held_out_classes
from pipeline.errors import InputError
from pipeline.orchestration.stage import Context, Manifest

CHUNK = 16
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
    apart = frozenset(config.held_out.classes)
    if catalogue.class_names is not None:
        check_held_out_classes(config.held_out.classes, catalogue.class_names)
    entries = catalogue.entries
    chunks = [entries[first : first + CHUNK] for first in range(0, len(entries), CHUNK)]
    results = ordered_map(loader_for(catalogue, config), chunks, config.workers)
    context.progress.start("samples", len(entries), "samples")
    place = 0
    for result in results:
        for loaded in result:
            split = catalogue.splits[place]
            place += 1
            if isinstance(loaded, Refusal):
                yield loaded
                continue
            names = (
                {catalogue.class_names[label] for label in loaded.labels} if catalogue.class_names else set()
            )
            yield ("heldout" if names & apart else split), loaded
        context.progress.advance(len(result))
    context.progress.finish()
