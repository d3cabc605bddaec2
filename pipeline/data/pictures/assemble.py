"""From the pictures of one view to a sample: aligned, checked, at the dataset's size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.config.data import Data
from pipeline.config.pictures import DepthSection, SegSection
from pipeline.data.modality import MODALITIES, Sample
from pipeline.data.pictures.classes import label_reading
from pipeline.data.pictures.depth import DepthReading, depth_and_table, depth_reading
from pipeline.data.pictures.labels import LabelReading, class_indices, labels_and_table
from pipeline.data.pictures.picture import Picture
from pipeline.data.pictures.rgb import colours
from pipeline.data.pictures.square import Square, turned
from pipeline.data.refusal import Refused

_FIRST_ON_ITS_SIDE = 5


@dataclass(frozen=True)
class Assembly:
    """How the pictures of one view become a sample; the same for all of a source, and picklable.

    Attributes:
        depth: What stored depth means; None where there is none.
        seg: What stored labels mean; None where there are none.
        image_size: Height and width of a sample.
        exif: Whether samples with a picture that wants to be turned are refused, turned, or taken as stored.
        seg_resize: Whether a label is the one in the middle of a pixel's area or its most frequent one.
        class_names: In the order of the labels; None if they are known only from the labels.
    """

    depth: DepthReading | None
    seg: LabelReading | None
    image_size: int
    exif: Literal["refuse", "apply", "ignore"] = "refuse"
    seg_resize: Literal["nearest", "majority"] = "nearest"
    class_names: tuple[str, ...] | None = None

    @property
    def depth_scale_m(self) -> float:
        """Metres per unit of a depth PNG, for depth that is stored as integers."""
        return 0.001 if self.depth is None else self.depth.scale_m

    @property
    def whole_depth(self) -> bool:
        """Whether depth stored in integers of 16 bits fits a depth PNG of that scale exactly."""
        return self.depth is not None and self.depth.is_multiple

    def sample(
        self,
        key: str,
        origin: str,
        pictures: Mapping[str, Picture],
        factors: dict[str, int] | None = None,
    ) -> Sample:
        """The sample of one view.

        Args:
            key: Its unique name.
            origin: What its owner calls it.
            pictures: One per modality that it has.
            factors: Index of each known factor's value.

        Raises:
            Refused: If one of the pictures cannot be used, or they do not fit each other.
        """
        height, width = _common_size(pictures)
        orientation = self._orientation(pictures)
        if orientation >= _FIRST_ON_ITS_SIDE:
            height, width = width, height
        square = Square(height, width, self.image_size)
        rgb = depth = seg = None
        if "rgb" in pictures:
            rgb = square.rgb(_colours(pictures["rgb"], orientation))
        if "depth" in pictures:
            assert self.depth is not None
            stored, metres = depth_and_table(pictures["depth"], self.depth)
            depth = square.depth(turned(stored, orientation), metres)
            if np.isnan(depth).all():
                raise Refused(
                    "no_valid_depth",
                    f"{pictures['depth'].name}: no pixel of the centred square has a depth",
                    "leave the depth out, or check what the depth section calls invalid",
                )
        if "seg" in pictures:
            assert self.seg is not None
            seg = self._labels(pictures["seg"], self.seg, square, orientation)
        return Sample(key=key, rgb=rgb, depth=depth, seg=seg, factors=factors, origin=origin)

    def _labels(
        self, picture: Picture, reading: LabelReading, square: Square, orientation: int
    ) -> UInt8[np.ndarray, "size size"]:
        if self.seg_resize == "majority":
            return square.majority(turned(class_indices(picture, reading), orientation))
        labels, indices = labels_and_table(picture, reading)
        sampled = square.seg(turned(labels, orientation))
        return sampled if indices is None else indices.take(sampled)

    def _orientation(self, pictures: Mapping[str, Picture]) -> int:
        """How all modalities are turned.

        Raises:
            Refused: If a picture wants to be turned and that is not allowed, or two want it differently.
        """
        wanted = {m: p.orientation for m, p in pictures.items() if p.orientation != 1}
        if not wanted or self.exif == "ignore":
            return 1
        listed = ", ".join(f"{m} has EXIF orientation {wanted[m]}" for m in MODALITIES if m in wanted)
        if self.exif == "refuse":
            raise Refused(
                "orientation",
                f"{listed}; it is shown turned, but is depth, and are labels, stored the same way?",
                "data.exif: apply turns all modalities alike, ignore takes all as stored",
            )
        if len(set(wanted.values())) > 1:
            raise Refused("orientation", listed, "save the pictures upright, without EXIF orientation")
        return next(iter(wanted.values()))


def assembly_for(
    config: Data, depth: DepthSection | None, seg: SegSection | None, class_names: Sequence[str] | None
) -> Assembly:
    """How a source's pictures become samples.

    Args:
        config: Size and what is done with turned pictures.
        depth: What stored depth means; None if the source has none.
        seg: What stored labels mean; None if the source has none.
        class_names: Of the stored values, in their order; None or empty if they have no names.

    Raises:
        InputError: If a name in the sections is not that of a class.
    """
    reading, names = (None, None) if seg is None else label_reading(seg, class_names)
    return Assembly(
        None if depth is None else depth_reading(depth),
        reading,
        config.image_size,
        config.exif,
        config.seg_resize,
        names,
    )


def _colours(picture: Picture, orientation: int) -> UInt8[np.ndarray, "height width 3"] | Image.Image:
    """RGB as it is seen; a decoded image as it is, where that is it."""
    if isinstance(picture.stored, Image.Image) and picture.mode == "RGB" and orientation == 1:
        return picture.stored
    return turned(colours(picture), orientation)


def _common_size(pictures: Mapping[str, Picture]) -> tuple[int, int]:
    sizes = {m: pictures[m].height_width for m in MODALITIES if m in pictures}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{m} is {width} x {height}" for m, (height, width) in sizes.items())
        raise Refused("size_mismatch", listed, "export all modalities of a view at the same size")
    height, width = next(iter(sizes.values()))
    return height, width
