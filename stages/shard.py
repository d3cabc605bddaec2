"""From a source to a dataset directory.

The work is divided into parts (`pipeline.data.shards.parts`). Each process makes every so-manieth part; the
first waits for the others, by looking at the files they leave, and puts everything together.
"""

import shutil
import time
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, overload

from pipeline.analysis.dataset_pictures import leave_pictures
from pipeline.config.data import Data
from pipeline.config.existing import DatasetSource
from pipeline.data.loader.location import adopt_dataset
from pipeline.data.modality import SPLITS, DatasetInfo
from pipeline.data.parallel import keep_freed_memory, ordered_map, processor_count
from pipeline.data.refusal import Refusal
from pipeline.data.shards.dataset import INFO, read_info
from pipeline.data.shards.encoded import LoadAndEncode
from pipeline.data.shards.members import encodings_for
from pipeline.data.shards.merge import Facts, merge
from pipeline.data.shards.parts import (
    PARTS,
    PartWriter,
    PlannedPart,
    finished_numbers,
    finished_part,
    plan_parts,
)
from pipeline.data.shards.tally import Tally
from pipeline.data.sources import open_source
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.splits import held_out_labels
from pipeline.errors import InputError
from pipeline.orchestration.stage import Context, Manifest

CHUNK = 32
"""Entries a worker is given at once."""

LOOK_AGAIN_S = 0.5
"""Between two looks at what the other processes have finished."""


def run(config: Data, context: Context) -> Manifest:
    """Load every sample of the source, in as many processes as asked for, and write the dataset.

    Raises:
        InputError: If the source cannot be read, too much of it was refused, or a split is empty.
    """
    started_s = time.monotonic()
    keep_freed_memory()
    if isinstance(config.source, DatasetSource):
        if context.world.is_main:
            adopt_dataset(config.source, config.image_size, context.directory)
    elif not (context.directory / INFO).exists():
        _make(config, context)
    if not context.world.is_main:
        return Manifest()
    shutil.rmtree(context.directory / PARTS, ignore_errors=True)
    elapsed_s = time.monotonic() - started_s
    about = leave_pictures(context.directory, context.progress)
    return _manifest(read_info(context.directory), about, elapsed_s)


def _make(config: Data, context: Context) -> None:
    catalogue = open_source(config)
    for note in catalogue.notes:
        context.progress.say(note)
    parts = plan_parts(catalogue.splits, config.shard_samples)
    tally = Tally(len(catalogue.splits), config.max_bad_fraction, strict=config.strict)
    _write_parts(parts, catalogue, config, context, tally)
    if not context.world.is_main:
        return
    _await_others(parts, context)
    context.progress.start("putting together", len(parts), "parts")
    tally = Tally(len(catalogue.splits), config.max_bad_fraction, strict=config.strict)
    merged = merge(context.directory, _facts(config, catalogue), tally)
    context.progress.finish()
    for line in (*tally.lines(), *merged.notes):
        context.progress.say(line)


def _write_parts(
    parts: Sequence[PlannedPart], catalogue: Catalogue, config: Data, context: Context, tally: Tally
) -> None:
    """Make those of this process's parts that are not there yet."""
    world, directory = context.world, context.directory
    waiting = []
    done = 0
    for part in parts[world.rank :: world.size]:
        if (finished := finished_part(directory, part.number, len(part.entries))) is None:
            waiting.append(part)
            continue
        done += len(part.entries)
        for refusal in finished.refusals():
            tally.add(refusal)
    if (directory / INFO).exists() or not directory.is_dir():
        return  # the first process came to the end meanwhile: nothing of ours was missing
    total = done + sum(len(part.entries) for part in waiting)
    context.progress.start("samples", total, "samples", done)
    apart = held_out_labels(config.held_out.classes, catalogue.class_names)
    workers = config.workers or max(1, processor_count() // world.local_size)
    factors = [factor.name for factor in catalogue.factors]
    load = LoadAndEncode(catalogue.load, _suffixes(config), catalogue.depth_scale_m)
    loaded = chain.from_iterable(ordered_map(load, Chunks(catalogue.entries, waiting), workers))
    for part in waiting:
        with PartWriter(directory, part.number, factors, len(part.entries)) as writer:
            for sample in islice(loaded, len(part.entries)):
                if isinstance(sample, Refusal):
                    refusal = Refusal(sample.origin, sample.reason, sample.detail, sample.remedy, part.split)
                    writer.refuse(refusal)
                    tally.add(refusal)
                else:
                    writer.add(part.split if apart.isdisjoint(sample.labels) else "heldout", sample)
                context.progress.advance()
    context.progress.finish()


class Chunks(Sequence[list[Any]]):
    """The entries of some parts, some neighbours at a time; made when they are asked for."""

    def __init__(self, entries: Sequence[Any], parts: Sequence[PlannedPart]) -> None:
        self._entries = entries
        self._places = [(part, first) for part in parts for first in range(0, len(part.entries), CHUNK)]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> list[Any]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[Any]]: ...

    def __getitem__(self, number: int | slice) -> list[Any]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        part, first = self._places[number]
        return [self._entries[entry] for entry in part.entries[first : first + CHUNK].tolist()]


def _await_others(parts: Sequence[PlannedPart], context: Context) -> None:
    """Wait until every part of every process is there.

    Raises:
        InputError: If another process failed.
    """
    if context.world.size == 1:
        return
    context.progress.start("parts of all processes", len(parts), "parts")
    seen = 0
    while True:
        done = finished_numbers(context.directory)
        context.progress.advance(len(done) - seen)
        seen = len(done)
        if len(done) == len(parts):
            break
        if failure := context.peer_failure():
            raise InputError(f"another process of this stage failed: {failure}")
        time.sleep(LOOK_AGAIN_S)
    context.progress.finish()


def _suffixes(config: Data) -> dict[str, str]:
    return encodings_for(config.encoding.model_dump(), config.image_size)


def _facts(config: Data, catalogue: Catalogue) -> Facts:
    return Facts(
        class_names=catalogue.class_names,
        image_size=config.image_size,
        factors=catalogue.factors,
        depth_scale_m=catalogue.depth_scale_m,
        whole_depth=catalogue.whole_depth,
        source=catalogue.description,
        shard_samples=config.shard_samples,
        duplicates=config.duplicates,
        rendered=catalogue.rendered,
        needed=("train", "test"),
    )


def _manifest(info: DatasetInfo, about: dict[str, float], elapsed_s: float) -> Manifest:
    counts = {f"samples/{split}": float(info.counts.get(split, 0)) for split in SPLITS}
    return Manifest(
        metrics={**counts, "quarantined": float(sum(info.quarantine.values())), **about},
        headline=("samples/train", "samples/test", "samples/heldout", "quarantined"),
        outputs={},
        timing={"seconds": elapsed_s, "samples_per_s": sum(info.counts.values()) / max(elapsed_s, 1e-9)},
    )
