"""Folders of pictures as hypothesis draws them: layout, size, what is missing; and datasets made of them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.data import Data
from pipeline.data.modality import MODALITIES
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, World
from stages import shard

SIZE = 32
CLASSES = ("floor", "cup", "box")
SUBSETS = [frozenset(m for place, m in enumerate(MODALITIES) if mask >> place & 1) for mask in range(1, 8)]
_ENDINGS = {"rgb": "leftImg8bit", "depth": "disparity", "seg": "gtFine_labelIds"}
_CITYSCAPES = {"rgb": "leftImg8bit", "depth": "disparity", "seg": "gtFine"}
_WORDS = {"rgb": "color", "depth": "depth", "seg": "label"}


@dataclass(frozen=True)
class Drawn:
    """A folder that could be somebody's.

    Attributes:
        layout: `flat`, `splits`, `cityscapes` or `pattern`.
        has: The modalities of each sample.
        splits: Where each belongs; without effect where the layout has no splits.
        scale: Pixels of a picture per pixel of the dataset, either way.
        margin: Pixels that are cut off at both sides.
        wide: Whether those are left and right, or above and below.
        shard_samples: Most samples of a tar.
        ranks: Processes that make the dataset.
    """

    layout: str
    has: tuple[frozenset[str], ...]
    splits: tuple[str, ...]
    scale: int
    margin: int
    wide: bool
    shard_samples: int
    ranks: int

    def declared(self) -> list[str]:
        """The modalities that there are at all."""
        return [m for m in MODALITIES if any(m in each for each in self.has)]


@st.composite
def drawn_folders(draw: st.DrawFn) -> Drawn:
    """Any modalities per sample, at least one; the first has all there are, so that names can be joined."""
    there = draw(st.sampled_from(SUBSETS))
    some = [subset for subset in SUBSETS if subset <= there]
    has = draw(st.lists(st.sampled_from(some), min_size=5, max_size=14))
    splits = draw(st.lists(st.sampled_from(["train", "test"]), min_size=len(has), max_size=len(has)))
    return Drawn(
        layout=draw(st.sampled_from(["flat", "splits", "cityscapes", "pattern"])),
        has=(there, *has),
        splits=("train", "test", *splits[1:]),
        scale=draw(st.sampled_from([1, 2])),
        margin=draw(st.integers(0, 5)),
        wide=draw(st.booleans()),
        shard_samples=draw(st.integers(1, 6)),
        ranks=draw(st.integers(1, 3)),
    )


def truth(modality: str, number: int) -> np.ndarray:
    """What the dataset must hold of a sample: values as in the dataset, depth in metres."""
    rng = np.random.default_rng((number, MODALITIES.index(modality)))
    if modality == "rgb":
        return rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    if modality == "seg":
        return rng.choice(np.array([0, 1, 2, 255], np.uint8), (SIZE, SIZE))
    units = rng.integers(500, 5000, (SIZE, SIZE))
    return np.where(rng.random((SIZE, SIZE)) < 0.1, np.nan, units * 0.001).astype(np.float32)


def write_folder(drawn: Drawn, root: Path) -> None:
    """Write its pictures."""
    for number, has in enumerate(drawn.has):
        for modality in has:
            path = root / _path(drawn, modality, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_picture(drawn, modality, number)).save(path, compress_level=0)


def make_dataset(drawn: Drawn, home: Path) -> Path:
    """Write its pictures, and the dataset made of them by as many processes as were drawn."""
    root, directory = home / "in", home / "dataset"
    write_folder(drawn, root)
    directory.mkdir()
    config = Data.model_validate({
        "source": source_of(drawn, root),
        "image_size": SIZE,
        "test_fraction": 0.3,
        "shard_samples": drawn.shard_samples,
        "workers": 1,
        "encoding": {"depth": "npy.zst"},
    })
    for rank in reversed(range(drawn.ranks)):  # the first, which would wait for the others, comes last
        world = World(rank, drawn.ranks, rank, drawn.ranks)
        shard.run(config, Context("drawn", 0, home, directory, {}, world, Progress("shard", silent=True)))
    return directory


def source_of(drawn: Drawn, root: Path) -> dict[str, Any]:
    """The config a person would write for it."""
    places: dict[str, Any] = {m: {} if m in drawn.declared() else None for m in MODALITIES}
    if drawn.layout == "pattern":
        for modality in drawn.declared():
            places[modality]["pattern"] = rf"(?P<scene>\w+)/frame-(?P<id>n\d+)\.{_WORDS[modality]}\.png"
    if places["depth"] is not None:
        places["depth"]["unit"] = "mm"
    layout = "flat" if drawn.layout == "pattern" else drawn.layout
    return {"kind": "folder", "root": str(root), "layout": layout, "classes": CLASSES, **places}


def number_of(key: str) -> int:
    """Which sample a key of the dataset is."""
    found = re.search(r"n(\d{3})", key)
    assert found, key
    return int(found[1])


def _path(drawn: Drawn, modality: str, number: int) -> str:
    name, split = f"n{number:03d}", drawn.splits[number]
    match drawn.layout:
        case "flat":
            return f"{modality}/{name}.png"
        case "splits":
            return f"{split}/{modality}/cup/{name}.png"
        case "cityscapes":
            return f"{_CITYSCAPES[modality]}/{split}/aachen/{name}_{_ENDINGS[modality]}.png"
    return f"{'office' if number % 2 else 'kitchen'}/frame-{name}.{_WORDS[modality]}.png"


def _picture(drawn: Drawn, modality: str, number: int) -> np.ndarray:
    """Enlarged, with margins, and in the units of files."""
    array = truth(modality, number)
    if modality == "depth":
        array = np.nan_to_num(np.rint(array * 1000)).astype(np.uint16)
    array = array.repeat(drawn.scale, axis=0).repeat(drawn.scale, axis=1)
    margins = [(0, 0), (drawn.margin,) * 2] if drawn.wide else [(drawn.margin,) * 2, (0, 0)]
    return np.pad(array, [*margins, (0, 0)][: array.ndim], mode="edge")
