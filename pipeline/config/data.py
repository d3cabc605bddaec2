"""What the model is trained on; the dataset directory depends on this section alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Count, Fraction, Positive, Section, without_effect
from pipeline.config.sources import Source


class HeldOut(Section):
    """Samples kept out of training and testing, for the few-shot stage."""

    factors: dict[str, tuple[int | str, ...]] = Field(default={})
    """Factor name to the values held out (`shape: [capsule]`); for built-in scenes."""
    classes: tuple[str, ...] = ()
    """Every sample in which one of these classes has a labelled pixel is held out."""
    limit: Positive | None = None
    """Most held-out scenes that a built-in source renders, the first drawn; null: all of them."""


class Encodings(Section):
    """How each modality is stored; one word instead of the section means all three.

    auto loses nothing: npy up to 64 px, npy.zst above.
    """

    rgb: Literal["auto", "npy", "npy.zst", "png", "jpg"] = "auto"
    """npy (fast to read), npy.zst, png (small), or jpg, which alone loses something."""
    depth: Literal["auto", "npy", "npy.zst", "png"] = "auto"
    """npy or npy.zst: float32 metres as they are; png: whole numbers of the source's unit."""
    seg: Literal["auto", "npy", "npy.zst", "png"] = "auto"
    """All of them keep every label."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, str) else value


class Data(Section):
    """What the model is trained on; the dataset directory depends on this section alone."""

    source: Source
    """Where samples come from."""
    image_size: Literal[32, 64, 128, 256] = 64
    """Height and width in pixels; images are centre-cropped to a square and resized."""
    exif: Literal["refuse", "apply", "ignore"] = "refuse"
    """Pictures whose EXIF says that they are to be turned: refuse the sample, turn all its modalities alike,
    or take all as stored."""
    seg_resize: Literal["nearest", "majority"] = "nearest"
    """The label of a pixel made smaller: that in the middle of its area, or the most frequent one."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of samples for testing, unless the source gives explicit splits."""
    block: Positive = 1
    """Neighbours in name order that go to the same split together, so that video frames do not leak."""
    split_seed: Count = 0
    """Chooses which blocks are for testing."""
    held_out: HeldOut = HeldOut()
    """What is kept apart for few-shot adaptation."""
    shard_samples: Positive = 1000
    """Samples per tar file."""
    encoding: Encodings = Encodings()
    """How arrays are stored: `auto`, `npy` (fast), `npy.zst`, `png` (small), or one of them per modality."""
    duplicates: Literal["exact", "perceptual", "off"] = "exact"
    """Which samples that are in several splits stay only in test: equal ones, alike ones too, or none."""
    max_bad_fraction: Fraction = without_effect(0.1)
    """Stop when more than this share of the samples is refused."""
    strict: bool = without_effect(False)
    """Stop at the first sample that is refused; `--strict` says the same."""
    workers: Count = without_effect(0)
    """Processes that read or render; 0 takes one per processor."""

    @model_validator(mode="after")
    def _an_existing_dataset_holds_out_what_it_does(self) -> Data:
        if self.source.kind == "dataset" and (self.held_out.factors or self.held_out.classes):
            raise ValueError(
                "held_out cannot divide a dataset that is there already, which keeps its own splits; "
                "leave held_out out, or hold out where the dataset is made"
            )
        return self
