"""Samples whose members lie in tars: where each one's are, and how neighbours are read together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.data.modality import Sample
from pipeline.data.pictures.assemble import Assembly
from pipeline.data.pictures.files import MOST_BYTES, decode_picture
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.sources.rows import Names
from pipeline.data.sources.tar_index import Series
from pipeline.data.sources.tar_samples import Trouble
from pipeline.data.sources.unpacked import unpacked
from pipeline.data.storage import Storage

_GAP_BYTES = 1 << 18
_AT_ONCE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Place:
    """One member: which tar, where in it, how long, and what its name ends in."""

    tar: int
    offset: int
    size: int
    ending: str


@dataclass(frozen=True, slots=True)
class TarEntry:
    """The members of one sample.

    Attributes:
        key: Unique and safe.
        name: What its owner calls it.
        places: Per modality that it has.
        trouble: Why it is refused without a look.
    """

    key: str
    name: str
    places: dict[str, Place]
    trouble: Trouble | None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class TarIndex:
    """All samples in columns.

    Attributes:
        names: Of the samples.
        series: Where their members are.
        endings: Per modality.
    """

    names: Names
    series: Series
    endings: Mapping[str, Sequence[str]]

    def entry(self, number: int) -> TarEntry:
        """The sample at a position."""
        places = {}
        for modality, column in self.series.places.items():
            if (tar := int(column.tar[number])) >= 0:
                code = int(column.ending[number])
                ending = self.endings[modality][code // 2] + (".zst" if code % 2 else "")
                places[modality] = Place(tar, int(column.offset[number]), int(column.size[number]), ending)
        trouble = int(self.series.trouble[number])
        return TarEntry(
            self.names.key(number),
            self.names.name(number),
            places,
            None if trouble < 0 else self.series.troubles[trouble],
        )


@dataclass(frozen=True)
class TarSamples:
    """Loads samples of tars; what lies close together is read together.

    Attributes:
        storage: Where the tars are.
        tars: Their names.
        assembly: What becomes of the pictures.
    """

    storage: Storage
    tars: tuple[str, ...]
    assembly: Assembly

    def __call__(self, entries: Sequence[TarEntry]) -> Iterator[Sample | Refusal]:
        """Load some neighbouring samples."""
        for some in _portions(entries):
            wanted = {place for entry in some for place in entry.places.values() if _is_read(entry, place)}
            contents = self._read(sorted(wanted, key=lambda place: (place.tar, place.offset)))
            for entry in some:
                try:
                    yield self._sample(entry, contents)
                except Refused as refused:
                    yield Refusal(entry.name, refused.reason, refused.detail, refused.remedy)

    def _sample(self, entry: TarEntry, contents: Mapping[Place, bytes]) -> Sample:
        if (trouble := entry.trouble) is not None:
            raise Refused(trouble.reason, trouble.detail, trouble.remedy)
        pictures = {}
        for modality, place in entry.places.items():
            name = f"{PurePosixPath(entry.name).name}.{place.ending}"
            if place.size > MOST_BYTES:
                raise Refused("too_large", f"{name}: {place.size:,} bytes", "make the picture smaller")
            content = contents[place]
            if len(content) < place.size:
                raise Refused("truncated", f"{name}: the tar ends before it does", "download the tar again")
            pictures[modality] = decode_picture(*unpacked(content, name))
        return self.assembly.sample(entry.key, entry.name, pictures)

    def _read(self, places: Sequence[Place]) -> dict[Place, bytes]:
        """The bytes of places in the order they lie, in as few requests as small gaps allow."""
        contents: dict[Place, bytes] = {}
        first = 0
        while first < len(places):
            last, end = first, places[first].offset + places[first].size
            while last + 1 < len(places) and _is_close(places[last + 1], places[first].tar, end):
                last += 1
                end = max(end, places[last].offset + places[last].size)
            start = places[first].offset
            run = memoryview(self.storage.read(self.tars[places[first].tar], start, end))
            for place in places[first : last + 1]:
                contents[place] = bytes(run[place.offset - start : place.offset - start + place.size])
            first = last + 1
        return contents


def _is_read(entry: TarEntry, place: Place) -> bool:
    return entry.trouble is None and place.size <= MOST_BYTES


def _is_close(place: Place, tar: int, end: int) -> bool:
    return place.tar == tar and place.offset - end <= _GAP_BYTES


def _portions(entries: Sequence[TarEntry]) -> Iterator[list[TarEntry]]:
    """Entries in turn, as many at once as a bounded amount of memory takes."""
    some: list[TarEntry] = []
    total = 0
    for entry in entries:
        size = sum(place.size for place in entry.places.values() if _is_read(entry, place))
        if some and total + size > _AT_ONCE_BYTES:
            yield some
            some, total = [], 0
        some.append(entry)
        total += size
    if some:
        yield some
