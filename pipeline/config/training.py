"""Optimisation, and how samples are read for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Count, Fraction, Positive, PositiveFloat, Section, without_effect


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
    device: Literal["auto", "cpu", "cuda"] = without_effect("auto")
    """Where to train; auto takes a GPU when there is one."""
    log_samples: Positive = without_effect(640)
    """Samples between two lines of history.jsonl."""
    checkpoint_samples: Positive = without_effect(6_400)
    """Samples between two checkpoints."""
    keep_checkpoints: Positive = without_effect(2)
    """How many of the newest checkpoints to keep."""
