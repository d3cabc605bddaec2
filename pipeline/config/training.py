"""Optimisation, and how samples are read for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.config.section import Count, Fraction, Positive, PositiveFloat, Section, without_effect


class Loading(Section):
    """How samples are read."""

    workers: Count = without_effect(0)
    """Processes that read, decode and augment; 0: a thread of the training process."""
    cache_gib: Annotated[float, Field(ge=0.0)] = without_effect(0.0)
    """Keep decoded samples in up to so much memory of each process, if they all fit; 0: none."""
    streams: Positive = 1
    """Parts that shards are divided into for good, each read into its own part of every batch; for
    remote data on several nodes take the number of processes or a multiple. Divides `batch`."""


class Augment(Section):
    """Changes of each sample that are drawn anew in every epoch; off by default."""

    flip: Fraction = 0.0
    """Share of samples mirrored left to right, in every modality."""
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Shortest side of a random square crop, as a share of the picture's; brought back to its size."""
    rescale_depth: bool = False
    """Multiply depth by the crop's share of the side, as if the camera had moved nearer."""
    brightness: Fraction = 0.0
    """RGB times a factor within 1 +- this."""
    contrast: Fraction = 0.0
    """RGB's distance from its mean grey times a factor within 1 +- this."""
    saturation: Fraction = 0.0
    """RGB's distance from its grey picture times a factor within 1 +- this."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """RGB's hue turned by up to this share of the circle, either way."""


class MixedDataset(Section):
    """Another dataset that training draws from."""

    dataset: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        json_schema_extra={"affects_result": False}
    )
    """Its directory; relative to the working directory. Same image size and classes as the run's own."""
    weight: PositiveFloat = 1.0
    """Samples drawn from it per sample of the run's own dataset."""


class Train(Section):
    """Optimisation."""

    samples: Positive = 50_000
    """How many samples to train on, repetitions counted."""
    batch: Positive = 64
    """Global batch: samples per optimiser step over all processes."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of Adam."""
    scale_learning_rate: PositiveFloat = 1e-2
    """Peak learning rate of the likelihood scales."""
    final_learning_rate: Fraction = 0.02
    """Learning rate at the end of the cosine, as a share of the peak."""
    warmup_samples: Count = 6_400
    """Samples over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay (AdamW), on weights but not on biases or norms."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """Decay rates of Adam's moments."""
    clip_gradient_norm: PositiveFloat | None = None
    """Largest global gradient norm; null: no clipping."""
    ema_half_life_samples: Count = 1_600
    """Half-life of the averaged weights that every later stage uses; 0: no averaging."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or not. auto: bf16 where the processor computes it natively; kept once a run started."""
    accumulation: Positive = without_effect(1)
    """Micro-batches per optimiser step and process: less memory, the same update to the rounding of sums.
    Refused with terms that couple the rows of a batch."""
    sharding: Literal["none", "full"] = without_effect("none")
    """full: divide weights, gradients, moments and averages among processes (FSDP2), for a model that is
    too large for one device; none: every process holds all of them (DDP), which is faster."""
    device: Literal["auto", "cpu", "cuda"] = without_effect("auto")
    """Where to train; auto takes a GPU when there is one."""
    log_samples: Positive = without_effect(640)
    """Samples between two lines of history.jsonl."""
    checkpoint_samples: Positive = without_effect(6_400)
    """Samples between two checkpoints, and between two looks at the validation loss."""
    checkpoint_minutes: PositiveFloat | None = without_effect(10.0)
    """Most minutes between two checkpoints; null: samples alone decide."""
    keep_checkpoints: Positive = without_effect(2)
    """How many of the newest checkpoints to keep, beside the best."""
    milestone_samples: Positive | None = without_effect(None)
    """Keep the first checkpoint at or after every multiple of this for good; null: none."""
    validation_samples: Count = without_effect(128)
    """Samples of the validation split, or else of the test split, on which the best checkpoint is chosen by
    its loss; 0: none is."""
    loading: Loading = Loading()
    """How samples are read."""
    augment: Augment = Augment()
    """Changes of each sample that are drawn anew in every epoch."""
    mix: tuple[MixedDataset, ...] = ()
    """Other datasets to draw from as well; depth is still standardised by the run's own."""
