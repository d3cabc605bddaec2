"""Sources whose samples lie inside other files: tars, parquet, HDF5, and the trees of known datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.config.pictures import DepthSection, SegSection
from pipeline.config.section import Count, ModalityName, Positive, PositiveFloat, Section, without_effect

ListedSplit = Literal["train", "val", "test"]


def _listed(value: Any) -> Any:
    """One text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
LocalRoot = Annotated[Path, AfterValidator(Path.expanduser)]


class MemberRgb(Section):
    """Which members of a tar are RGB."""

    members: Texts | None = None
    """What follows the first dot of a member's name, in order of preference (`rgb.png`, `jpg`); null: rgb.*,
    jpg, jpeg, png, npy. Each also with `.zst`."""


class MemberDepth(DepthSection):
    """Which members of a tar are depth, and what a stored number means."""

    members: Texts | None = None
    """What follows the first dot of a member's name, in order of preference; null: depth.png, depth.npy,
    depth.exr, depth.tif, depth.tiff. Each also with `.zst`."""


class MemberSeg(SegSection):
    """Which members of a tar are labels, and what their values mean."""

    members: Texts | None = None
    """What follows the first dot of a member's name, in order of preference; null: seg.png, seg.npy, seg.tif,
    seg.tiff. Each also with `.zst`."""


class WebdatasetSource(Section):
    """Tars in the WebDataset format: one series with all modalities, or one series per modality."""

    kind: Literal["webdataset"]
    root: str = without_effect(".")
    """A folder, or a URL that fsspec knows (https, s3, gs, hf). Moving it changes nothing, other files do."""
    shards: Texts | dict[ModalityName, Texts]
    """Tars below `root`: `train-{000..012}.tar`, `*.tar`, or a list. Of one series per modality, `{rgb: ...,
    depth: ...}`: they are joined by the names inside."""
    splits: dict[ListedSplit, Texts] = Field(default={})
    """Which tars (of the first series) are for what, by pattern (`{train: "train-*", test: "val-*"}`). Empty:
    their names tell (train, val, test), else blocks of `data.block` samples."""
    rgb: MemberRgb | None = MemberRgb()
    """RGB members, or null when there are none."""
    depth: MemberDepth | None = None
    """Depth members, or null when there are none."""
    seg: MemberSeg | None = MemberSeg()
    """Label members, or null when there are none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the label values; empty: named by number."""
    options: dict[str, str | int | float | bool] = without_effect({})
    """For the file system behind a URL (`{anon: true}`). They are recorded: no passwords; those come from the
    environment."""
    retries: Count = without_effect(5)
    """How often a failed request is repeated, after 0.5, 1, 2, ... seconds."""

    @model_validator(mode="after")
    def _series_have_their_sections(self) -> WebdatasetSource:
        _has_a_modality(self.rgb, self.depth, self.seg)
        if isinstance(self.shards, dict):
            if not self.shards:
                raise ValueError("shards names no tars")
            for modality in self.shards:
                if getattr(self, modality) is None:
                    raise ValueError(
                        f"shards has a series for {modality}, but {modality} is null; "
                        f"give {modality} its section, or leave the series out"
                    )
        return self


class ColumnRgb(Section):
    """Which column is RGB."""

    column: str = "image"
    """An image column (bytes and path) or a column of encoded pictures; `a.b` is field b of column a."""


class ColumnDepth(DepthSection):
    """Which column is depth, and what a stored number means."""

    column: str = "depth"
    """An image column (bytes and path) or a column of encoded pictures."""


class ColumnSeg(SegSection):
    """Which column is labels, and what their values mean."""

    column: str = "label"
    """An image column (bytes and path) or a column of encoded pictures."""


class ParquetSource(Section):
    """Parquet files as Hugging Face writes them, with pictures in columns."""

    kind: Literal["parquet"]
    root: str = without_effect(".")
    """A folder, or a URL fsspec knows (`hf://datasets/NAME`, https, s3). Moving it changes nothing."""
    files: Texts = ("**/*.parquet",)
    """Files below `root`, by pattern."""
    splits: dict[ListedSplit, Texts] = Field(default={})
    """Which files are for what, by pattern (`{train: "train-*", test: "validation-*"}`). Empty: their names
    tell (train, val, test), else blocks of `data.block` rows."""
    name: str | None = None
    """Column whose values name the samples; null: file and row."""
    rgb: ColumnRgb | None = ColumnRgb()
    """RGB column, or null when there is none."""
    depth: ColumnDepth | None = None
    """Depth column, or null when there is none."""
    seg: ColumnSeg | None = ColumnSeg()
    """Label column, or null when there is none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the label values; empty: named by number."""
    options: dict[str, str | int | float | bool] = without_effect({})
    """For the file system behind a URL. They are recorded: no passwords; those come from the environment."""
    retries: Count = without_effect(5)
    """How often a failed request is repeated, after 0.5, 1, 2, ... seconds."""

    @model_validator(mode="after")
    def _columns_differ(self) -> ParquetSource:
        _has_a_modality(self.rgb, self.depth, self.seg)
        columns = [part.column for part in (self.rgb, self.depth, self.seg) if part is not None]
        if len(set(columns)) < len(columns):
            raise ValueError(f"two modalities name the same column: {', '.join(columns)}")
        return self


class LabelTable(Section):
    """From stored labels to fewer classes."""

    table: str | None = None
    """A file under `root` that gives every stored label its class number: CSV lines `old,new` or JSON
    `{"old": new}`."""
    classes: Literal["nyu40", "nyu13"] | tuple[str, ...] = ()
    """Names of the class numbers from `first` on, or a known set. Empty: named by number."""
    first: Count = 1
    """The smallest class number."""
    ignore: tuple[int, ...] = (0, -1, 255)
    """Class numbers that mean no label."""


class Nyuv2Source(Section):
    """The labelled part of NYU Depth v2: one .mat file of version 7.3."""

    kind: Literal["nyuv2"]
    root: LocalRoot = Field(json_schema_extra={"affects_result": False})
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    file: str = "nyu_depth_v2_labeled.mat"
    """The file under `root`."""
    rgb: bool = True
    """Whether to read the pictures."""
    depth: Literal["depths", "rawDepths"] | None = "depths"
    """Filled-in or measured depth, or null for none."""
    labels: LabelTable | None
    """How the 894 labels become at most 255 classes, or null for none."""
    splits: str | None = None
    """A file under `root` with trainNdxs and testNdxs (the official splits.mat, or JSON
    `{"train": [1, ...], "test": [...]}`); null: blocks of `data.block` frames."""

    @model_validator(mode="after")
    def _table_is_given(self) -> Nyuv2Source:
        _has_a_modality(self.rgb or None, self.depth, self.labels)
        if self.labels is not None and self.labels.table is None:
            raise ValueError(
                "labels needs `table`: the file has 894 labels, but at most 255 classes are possible"
            )
        return self


class BopSource(Section):
    """Scenes in the format of the BOP challenge."""

    kind: Literal["bop"]
    root: LocalRoot = Field(json_schema_extra={"affects_result": False})
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    scenes: Texts = ("**/scene_camera.json",)
    """The scenes' cameras below `root`, by pattern (`test/*/scene_camera.json`)."""
    splits: dict[ListedSplit, Texts] = Field(default={})
    """Which scenes are for what, by pattern (`{train: "train_pbr/*", test: "test/*"}`). Empty: their folders'
    names tell (train, val, test), else blocks of `data.block` pictures."""
    rgb: bool = True
    """Whether to read the pictures."""
    depth: bool = True
    """Whether to read depth."""
    seg: bool = True
    """Whether to make label maps of the visible masks."""
    classes: dict[Positive, str] = Field(default={})
    """Object number to class name; empty: all objects, named `object_1` and so on."""
    background: str | None = "background"
    """Class of the pixels that belong to no object; null: they have no label."""


class HypersimSource(Section):
    """Hypersim as downloaded: scenes with HDF5 pictures."""

    kind: Literal["hypersim"]
    root: LocalRoot = Field(json_schema_extra={"affects_result": False})
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    rgb: Literal["preview", "color"] | None = "preview"
    """preview: the tone-mapped JPEG; color: the HDF5, tone-mapped here as its authors do; null: none."""
    depth: bool = True
    """Whether to read depth: distances along the line of sight, made planar."""
    labels: LabelTable | None = LabelTable(classes="nyu40")
    """How stored labels (NYU40 numbers) become classes; without `table` they are them. null: none."""
    focal_px: PositiveFloat = 886.81
    """Focal length of the published pictures of 1024 x 768."""
    splits: str | None = None
    """A file under `root` like the published metadata_images_split_scene_v1.csv; null: blocks."""


def _has_a_modality(*parts: object) -> None:
    if all(part is None or part is False for part in parts):
        raise ValueError("it has no modality; at least one is needed")


Container = WebdatasetSource | ParquetSource | Nyuv2Source | BopSource | HypersimSource
