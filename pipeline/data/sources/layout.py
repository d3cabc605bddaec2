"""How a person's folders are laid out: which paths are whose, and what of a path names the sample.

Every layout comes down to one regular expression per modality. The values of its named groups, joined
by `/`, are the name of the sample; files of the same name belong together.
"""

import re
from pathlib import Path

from pipeline.config.sources import FolderDepth, FolderRgb, FolderSeg, FolderSource
from pipeline.data.sources.tree import Place, leads_outside
from pipeline.errors import InputError

_OWN = {
    "flat": {"rgb": ("rgb", ""), "depth": ("depth", ""), "seg": ("seg", "")},
    "splits": {"rgb": ("rgb", ""), "depth": ("depth", ""), "seg": ("seg", "")},
    "cityscapes": {
        "rgb": ("leftImg8bit", "_leftImg8bit"),
        "depth": ("disparity", "_disparity"),
        "seg": ("gtFine", "_gtFine_labelIds"),
    },
}
"""Folder and ending of each modality where the config names none."""

_ENDING = r"\.[A-Za-z]+"


def places_of(source: FolderSource) -> list[Place]:
    """Where the files of each modality are.

    Raises:
        InputError: If a folder is not there, or is a link that leads out of the root.
    """
    if not source.root.is_dir():
        what = "is not a folder" if source.root.exists() else "does not exist"
        raise InputError(
            f"data.source.root: {source.root} {what}; name the folder that holds the modalities' folders"
        )
    configured = {"rgb": source.rgb, "depth": source.depth, "seg": source.seg}
    places = [_place(source, name, place) for name, place in configured.items() if place is not None]
    for place in places:
        for folder in place.folders:
            _check_inside(source.root, place, folder)
    return places


def _place(source: FolderSource, modality: str, configured: FolderRgb | FolderDepth | FolderSeg) -> Place:
    if configured.pattern is not None:
        pattern = re.compile(configured.pattern)
        first = next(p.pattern for p in (source.rgb, source.depth, source.seg) if p is not None and p.pattern)
        return Place(modality, (".",), pattern, tuple(re.compile(first).groupindex))
    own_directory, own_suffix = _OWN[source.layout][modality]
    directory = own_directory if configured.directory is None else configured.directory
    suffix = own_suffix if configured.suffix is None else configured.suffix
    below = "" if directory == "." else re.escape(directory) + "/"
    name = f"(?P<name>.+){re.escape(suffix)}{_ENDING}"
    match source.layout:
        case "flat":
            return Place(modality, (directory,), re.compile(below + name, re.DOTALL), ("name",), suffix)
        case "splits":
            folders = _in_every_split(source.root, modality, directory)
            pattern = re.compile(f"(?P<split>[^/]+)/{below}{name}", re.DOTALL)
        case "cityscapes":
            folders = (directory,)
            pattern = re.compile(f"{below}(?P<split>[^/]+)/{name}", re.DOTALL)
    return Place(modality, folders, pattern, ("split", "name"), suffix)


def _in_every_split(root: Path, modality: str, directory: str) -> tuple[str, ...]:
    """The modality's folders, one per split that has one.

    Raises:
        InputError: If none has.
    """
    splits = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    folders = tuple(f"{split}/{directory}" for split in splits if (root / split / directory).is_dir())
    if not folders:
        inside = next(((split, sorted(p.name for p in (root / split).iterdir())) for split in splits), None)
        seen = "it is empty" if inside is None else f"there is {inside[0]}/ with {', '.join(inside[1][:5])}"
        raise InputError(
            f"data.source.{modality}.directory: no folder {root}/SPLIT/{directory}; {seen}; name the right "
            f"one, set data.source.{modality}: null if you have none, or choose another data.source.layout"
        )
    return folders


def _check_inside(root: Path, place: Place, folder: str) -> None:
    field, directory = f"data.source.{place.modality}", root / folder
    if not directory.is_dir():
        raise InputError(
            f"{field}.directory: there is no folder {directory}; name the right one, "
            f"or set {field}: null if you have none{_other_layout(root, folder)}"
        )
    if folder != "." and leads_outside(directory, root):
        raise InputError(
            f"{field}.directory: {directory} is a link that leads out of {root}; "
            f"name {directory.resolve()} itself"
        )


def _other_layout(root: Path, folder: str) -> str:
    """A hint where the folder lies one lower, as in train/rgb."""
    lower = sorted(path.name for path in root.iterdir() if (path / folder).is_dir())
    return f"; {root.name}/{lower[0]}/{folder} is there: set data.source.layout: splits" if lower else ""
