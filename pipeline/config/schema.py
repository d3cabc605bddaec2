"""The one schema: every value a run depends on, decided here and passed down as an argument."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.accumulation import indivisible
from pipeline.config.data import Data
from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.section import (
    Count,
    Positive,
    PositiveFloat,
    Section,
    without_effect,
)
from pipeline.config.system import contradictions, idle_adversary
from pipeline.config.training import Train

RESERVED_NAMES = ("datasets", "mlflow-artifacts")

FittedPriorName = Literal["aggregate", "gmm", "flow"]
LatentPriorName = Literal["training", FittedPriorName]


class Evaluate(Section):
    """Scores on the test split."""

    limit: Positive | None = None
    """Use only the first so many test samples; null: all."""
    batch: Positive = without_effect(100)
    """Samples decoded at once."""
    pictures: Annotated[int, Field(ge=1, le=32)] = 8
    """Columns of each picture grid."""
    nll_samples: Count = 256
    """Test samples whose NLL is estimated, where the system has a likelihood; 0: none."""
    nll_importance: Positive = 16
    """Importance samples K per test sample in the NLL estimate."""
    inversion_samples: Positive = 64
    """Most test samples that reconstructions and translations are scored on where codes are found by
    inversion, which takes a second each."""
    generated: Count = 1_000
    """Most generated scenes that are compared, as a set, with as many test scenes; below 50: none."""
    prior: LatentPriorName = "aggregate"
    """What generated scenes are drawn from; see synthesize.prior."""


class Adapt(Section):
    """Few-shot adaptation to the held-out samples."""

    shots: tuple[Positive, ...] = (5,)
    """Numbers of support examples k."""
    draws: Positive = 2
    """Independent support sets per k."""
    query: Positive = 64
    """Most held-out samples, outside every support, that results are measured on; as many test samples
    show what was forgotten."""
    steps: Positive = 80
    """Optimiser steps of the decoder adapter."""
    rank: Positive = 4
    """Rank of the decoder adapter."""
    learning_rate: PositiveFloat = 6e-3
    """Learning rate of the adapter; falls linearly to 0."""
    replay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.7
    """Share of every batch drawn from the training set, so that what was known is kept."""
    batch: Annotated[int, Field(ge=2)] = 16
    """Samples per step, replay included."""
    prior_pseudo_count: PositiveFloat = 3.0
    """How many support examples the source prior is worth when it is re-fit."""
    nll_importance: Positive = 4
    """Importance samples K per sample in the NLL estimates."""
    fast: bool = False
    """Re-fit the latent prior only; the decoder stays as it is."""


class Analyze(Section):
    """What each latent means."""

    samples: Positive = 2_000
    """Samples encoded to measure latents and factors."""
    traversal_latents: Positive = 16
    """Latents shown, in the order of their KL."""
    traversal_steps: Annotated[int, Field(ge=3, le=31)] = 9
    """Positions per traversal, between quantiles of the aggregate posterior."""
    anchors: Positive = 4
    """Scenes whose latents are traversed."""
    permutations: Count = 20
    """Shuffles of the factors that give a metric's chance level."""
    bootstrap: Count = 50
    """Resamples of the scored samples that give a metric's interval."""


class Synthesize(Section):
    """A labelled dataset drawn from the model."""

    count: Annotated[int, Field(ge=2)] = 1_000
    """Number of scenes, test scenes included."""
    prior: LatentPriorName = "aggregate"
    """Draw latents from what training held them to (N(0, I), but for an adversarial autoencoder with another
    prior), or from what is fitted to the training set's posteriors: one Gaussian, a mixture of Gaussians,
    or a normalising flow."""
    seed: Count = 0
    """Chooses the scenes."""


class Tracking(Section):
    """MLflow."""

    enabled: bool = True
    """Mirror the run into MLflow."""
    uri: str | None = None
    """Tracking server; null: MLFLOW_TRACKING_URI, else a SQLite file under the root."""
    experiment: str = "triptych"
    """Experiment the runs appear under."""


class Config(Section):
    """Everything a run depends on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run and of its directory."""
    seed: Count = 0
    """Seed of initialisation, data order and noise."""
    data: Data
    """What the model is trained on."""
    model: Model = Model()
    """Networks and how the modalities share a latent."""
    objective: Objective = Objective()
    """What training minimises."""
    train: Train = Train()
    """Optimisation."""
    evaluate: Evaluate = Evaluate()
    """Scores on the test split."""
    adapt: Adapt = Adapt()
    """Few-shot adaptation to the held-out samples."""
    analyze: Analyze = Analyze()
    """What each latent means."""
    synthesize: Synthesize = Synthesize()
    """A labelled dataset drawn from the model."""
    tracking: Tracking = Tracking()
    """MLflow."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name} is kept for triptych's own folder beside the runs; choose another")
        return name

    @model_validator(mode="after")
    def _choices_make_a_system(self) -> Config:
        wrong = list(contradictions(self.model, self.objective))
        if mistake := self.model.mistake_at(self.data.image_size):
            wrong.append(mistake)
        if mistake := idle_adversary(self.objective, self.train.samples):
            wrong.append(mistake)
        wrong += indivisible(self.model, self.objective, self.train)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self
