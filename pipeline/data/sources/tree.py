"""Which files a person's folders hold, and which of them belong together."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.pictures.files import SUFFIXES
from pipeline.errors import InputError

_EXAMPLES = 3


@dataclass(frozen=True)
class Place:
    """Where the files of one modality are.

    Attributes:
        modality: Whose files they are.
        directory: Folder, relative to the source's root.
        suffix: End of a file's stem that is not part of the sample's name.
    """

    modality: str
    directory: str
    suffix: str


def join_trees(root: Path, places: list[Place]) -> dict[str, dict[str, Path]]:
    """The files of every sample: path per modality, by the sample's name.

    Raises:
        InputError: If a folder is missing or has no usable file, a name is taken twice, or a
            modality's names match none of the others'.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(
            f"data.source.root: {root} {what}; name the folder that holds the modalities' folders"
        )
    trees = {place.modality: _tree(root, place) for place in places}
    for place in places:
        others = set().union(*(tree for modality, tree in trees.items() if modality != place.modality))
        if len(trees) > 1 and not others & trees[place.modality].keys():
            raise InputError(_nothing_matches(place.modality, trees))
    samples: dict[str, dict[str, Path]] = {}
    for modality, tree in trees.items():
        for name, path in tree.items():
            samples.setdefault(name, {})[modality] = path
    return samples


def leads_outside(path: Path, root: Path) -> bool:
    """Whether a path is a link to somewhere outside a folder."""
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def _tree(root: Path, place: Place) -> dict[str, Path]:
    directory = root / place.directory
    field = f"data.source.{place.modality}"
    if not directory.is_dir():
        raise InputError(
            f"{field}.directory: there is no folder {directory}; name the right one, "
            f"or set {field}: null if you have none"
        )
    if leads_outside(directory, root):
        raise InputError(
            f"{field}.directory: {directory} is a link that leads out of {root}; "
            f"name {directory.resolve()} itself"
        )
    files: dict[str, Path] = {}
    passed_over: Counter[str] = Counter()
    other_stems = []
    for path in _files(directory):
        if path.suffix.lower() not in SUFFIXES:
            passed_over[path.suffix.lower() or "(none)"] += 1
            continue
        stem = path.relative_to(directory).with_suffix("").as_posix()
        if not stem.endswith(place.suffix):
            other_stems.append(stem)
            continue
        name = stem.removesuffix(place.suffix)
        if name in files:
            raise InputError(
                f"{directory}: {files[name].name} and {path.name} are both {name!r}; keep one of them"
            )
        files[name] = path
    if not files and other_stems:
        raise InputError(
            f"{directory}: no file's stem ends in {place.suffix!r} ({field}.suffix); "
            f"there are {_few(other_stems)}"
        )
    if not files:
        found = (
            f"it holds only {', '.join(f'{n} {suffix}' for suffix, n in passed_over.most_common(3))}"
            if passed_over
            else "it is empty"
        )
        raise InputError(f"{directory}: no .png, .jpg or .npy file for {place.modality}; {found}")
    return files


def _files(directory: Path) -> list[Path]:
    """Regular files and links to files below a folder, sorted; hidden ones and linked folders left out.

    Raises:
        InputError: If a folder cannot be listed.
    """
    found, waiting = [], [directory]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and entry.is_file()):
                        found.append(Path(entry.path))
        except OSError as error:
            raise InputError(f"{here}: cannot be listed: {error.strerror}") from None
    return sorted(found)


def _nothing_matches(modality: str, trees: Mapping[str, Mapping[str, Path]]) -> str:
    listed = "; ".join(f"{name}: {_few(list(tree))}" for name, tree in trees.items())
    return (
        f"data.source: no name of {modality} occurs in another modality. Names are file paths without "
        f"extension: {listed}. If they differ by an ending, set data.source.{modality}.suffix "
        "(`_rgb` for 0001_rgb.jpg)"
    )


def _few(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
