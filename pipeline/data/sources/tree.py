"""Which files a person's folders hold, and which of them belong together.

A million samples are planned for: names and paths are columns of bytes, not objects.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.columns import binaries, texts, truths
from pipeline.data.keys import natural_text
from pipeline.data.pictures.files import SUFFIXES
from pipeline.errors import InputError

_EXAMPLES = 3
_CHUNK = 1 << 16
_ORDER = [("natural", "ascending"), ("name", "ascending")]


@dataclass(frozen=True)
class Place:
    """Where the files of one modality are.

    Attributes:
        modality: Whose files they are.
        folders: Folders below the root that are listed, with their sub-folders.
        pattern: What the path below the root of one of its files matches, whole.
        groups: Groups of the pattern whose values name the sample, in their order.
        suffix: End of a stem that is not part of the name, for messages; None if a pattern was given.
    """

    modality: str
    folders: tuple[str, ...]
    pattern: re.Pattern[str]
    groups: tuple[str, ...]
    suffix: str | None = None


@dataclass(frozen=True)
class Joined:
    """The samples of a folder, in the natural order of their names.

    Attributes:
        names: What each is called.
        paths: Column of paths below the root per modality; null where a sample lacks it.
        split_folders: What the group `split` of a path says of each; None where paths do not tell.
        endings: The endings of each modality's files, in lower case.
    """

    names: pa.Array
    paths: Mapping[str, pa.Array]
    split_folders: pa.Array | None
    endings: Mapping[str, frozenset[str]]

    def __len__(self) -> int:
        return len(self.names)

    def lacking(self) -> int:
        """How many samples lack a modality."""
        has_all = truths(np.ones(len(self), bool))
        for column in self.paths.values():
            has_all = pc.and_(has_all, column.is_valid())
        return len(self) - int(pc.sum(has_all).as_py() or 0)

    def only(self, rows: Any) -> "Joined":
        """Some of them, by their places."""
        return Joined(
            self.names.take(rows),
            {modality: column.take(rows) for modality, column in self.paths.items()},
            None if self.split_folders is None else self.split_folders.take(rows),
            self.endings,
        )


def join_trees(root: Path, places: Sequence[Place]) -> Joined:
    """The files of every sample.

    Raises:
        InputError: If a folder cannot be listed or has no usable file, a name is taken twice, or a
            modality's names match none of the others'.
    """
    trees = {place.modality: _Tree(place) for place in places}
    for folder in dict.fromkeys(folder for place in places for folder in place.folders):
        wanting = [trees[place.modality] for place in places if folder in place.folders]
        for path in _files(root, folder):
            for tree in wanting:
                tree.offer(path)
    listed = {modality: tree.columns(root) for modality, tree in trees.items()}
    for modality in listed:
        others = [columns["name"] for other, columns in listed.items() if other != modality]
        if others and not _any_in(listed[modality]["name"], others):
            raise InputError(_nothing_matches(modality, listed, trees))
    names = pc.unique(pa.chunked_array([columns["name"] for columns in listed.values()]))
    names = names.take(pc.sort_indices(pa.table([_sort_keys(names), names], ["natural", "name"]), _ORDER))
    paths, splits = {}, None
    for modality, columns in listed.items():
        rows = pc.index_in(names, columns["name"])
        paths[modality] = columns["path"].take(rows)
        if "split" in columns:
            found = columns["split"].take(rows)
            splits = found if splits is None else pc.coalesce(splits, found)
    endings = {modality: frozenset(tree.endings) for modality, tree in trees.items()}
    return Joined(names, paths, splits, endings)


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a path is a link to somewhere outside a folder."""
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


class _Tree:
    """The files of one modality as they are found."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.endings: set[str] = set()
        self._names: list[str] = []
        self._paths: list[bytes] = []
        self._splits: list[str] = []
        self._has_splits = "split" in place.groups
        self._chunks: list[pa.Table] = []
        self._passed_over: Counter[str] = Counter()
        self._not_matching: list[str] = []

    def offer(self, path: str) -> None:
        """Take a file if it is one of this modality's."""
        dot = path.rfind(".")
        ending = path[dot:].lower() if dot > path.rfind("/") else "(none)"
        if ending not in SUFFIXES:
            self._passed_over[ending] += 1
            return
        matched = self.place.pattern.fullmatch(path)
        if matched is None:
            if len(self._not_matching) <= _EXAMPLES:
                self._not_matching.append(path)
            return
        self.endings.add(ending)
        values = matched.group(*self.place.groups)
        name = values if isinstance(values, str) else "/".join(filter(None, values))
        plain = path.isascii()
        self._names.append(name if plain else _printable(name))
        self._paths.append(path.encode() if plain else os.fsencode(path))
        if self._has_splits:
            self._splits.append(_printable(matched["split"] or ""))
        if len(self._names) == _CHUNK:
            self._pack()

    def columns(self, root: Path) -> dict[str, pa.Array]:
        """All that was taken.

        Raises:
            InputError: If nothing was, or two files have one name.
        """
        self._pack()
        table = pa.concat_tables(self._chunks).combine_chunks()
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        if not len(columns["name"]):
            raise InputError(self._nothing(root))
        if pc.count_distinct(columns["name"]).as_py() < len(columns["name"]):
            raise InputError(_taken_twice(columns))
        return columns

    def _pack(self) -> None:
        columns = {
            "name": texts(self._names),
            "path": binaries(self._paths),
        }
        if self._has_splits:
            columns["split"] = texts(self._splits, pa.string())
        self._chunks.append(pa.table(columns))
        for values in (self._names, self._paths, self._splits):
            values.clear()

    def _nothing(self, root: Path) -> str:
        place, field = self.place, f"data.source.{self.place.modality}"
        where = str(root / place.folders[0]) if len(place.folders) == 1 else f"{root}/SPLIT/..."
        if self._not_matching and place.suffix is None:
            return (
                f"{root}: no path below it matches {field}.pattern {place.pattern.pattern!r} whole; "
                f"there are {_few(self._not_matching)}"
            )
        if self._not_matching:
            stems = [os.path.splitext(path)[0] for path in self._not_matching]  # noqa: PTH122
            stems = [stem.removeprefix(f"{place.folders[0]}/") for stem in stems]
            return (
                f"{where}: no file's stem ends in {place.suffix!r} ({field}.suffix); there are {_few(stems)}"
            )
        counted = ", ".join(f"{count} {ending}" for ending, count in self._passed_over.most_common(3))
        found = f"it holds only {counted}" if counted else "it is empty"
        return f"{where}: no file for {place.modality} ({', '.join(SUFFIXES)}); {found}"


def _files(root: Path, folder: str) -> Iterator[str]:
    """Paths below the root of a folder's files and links to files; hidden ones and linked folders left out.

    Raises:
        InputError: If a folder cannot be listed.
    """
    waiting = ["" if folder == "." else folder.rstrip("/")]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(os.path.join(root, here)) as entries:  # noqa: PTH118
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{here}/{entry.name}" if here else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif entry.is_file():
                        yield path
        except OSError as error:
            raise InputError(f"{root / here}: cannot be listed: {error.strerror}") from None


def _printable(name: str) -> str:
    """A name as text, whatever bytes the file system gave."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _sort_keys(names: pa.Array) -> pa.Array:
    """What the natural order of names compares, made some at a time."""
    chunks = [
        texts(map(natural_text, names[start : start + _CHUNK].to_pylist()))
        for start in range(0, len(names), _CHUNK)
    ]
    return pa.chunked_array(chunks).combine_chunks()


def _any_in(names: pa.Array, others: Sequence[pa.Array]) -> bool:
    return any(bool(pc.any(pc.is_in(names, other)).as_py()) for other in others)


def _taken_twice(columns: Mapping[str, pa.Array]) -> str:
    counts = pc.value_counts(columns["name"])
    name = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
    paths = columns["path"].filter(pc.equal(columns["name"], pa.scalar(name, pa.large_string()))).to_pylist()
    first, second = sorted(os.fsdecode(path) for path in paths)[:2]
    return f"{first} and {second} are both {name!r}; keep one of them"


def _nothing_matches(
    modality: str, listed: Mapping[str, Mapping[str, pa.Array]], trees: Mapping[str, _Tree]
) -> str:
    names = {m: sorted(columns["name"][: 100 * _EXAMPLES].to_pylist()) for m, columns in listed.items()}
    shown = "; ".join(f"{m}: {_few(examples)}" for m, examples in names.items())
    if trees[modality].place.suffix is None:
        return (
            f"data.source: no name of {modality} occurs in another modality. Names are the values of the "
            f"patterns' groups ({', '.join(trees[modality].place.groups)}): {shown}. "
            f"Change data.source.{modality}.pattern so that groups have equal values"
        )
    return (
        f"data.source: no name of {modality} occurs in another modality. Names are file paths without "
        f"extension: {shown}. If they differ by an ending, set data.source.{modality}.suffix "
        "(`_rgb` for 0001_rgb.jpg); if otherwise, give each modality a `pattern`"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
