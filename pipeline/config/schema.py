"""The one schema: every value a run depends on, decided here and passed down as an argument."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.data import Data
from pipeline.config.section import (
    Count,
    Fraction,
    ModalityName,
    Positive,
    PositiveFloat,
    Section,
    without_effect,
)
from pipeline.config.training import Train

RESERVED_NAMES = ("datasets", "mlflow-artifacts")


class Model(Section):
    """Networks and how the modalities share a latent."""

    latent: Positive = 32
    """Dimensions of the shared latent."""
    private: dict[ModalityName, Positive] = Field(default={"rgb": 16})
    """Dimensions only one modality is encoded into and decoded from."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels of each network's outermost features; the innermost maps have up to four times as many."""
    fusion: Literal["poe", "mopoe", "mvtcae"] = "mopoe"
    """Product of experts over all that is present; over one subset drawn per row; or MVTCAE's bound."""
    prior_expert: Literal["none", "full", "all"] | None = None
    """Unit-Gaussian expert: never, once per product, or once per expert. null: full, and none for mvtcae."""

    @model_validator(mode="after")
    def _mvtcae_has_no_prior_expert(self) -> Model:
        if self.fusion == "mvtcae" and self.prior_expert not in (None, "none"):
            raise ValueError(
                f"fusion mvtcae needs prior_expert: none, not {self.prior_expert} "
                "(its bound already holds the KL to the prior)"
            )
        return self


class Likelihood(Section):
    """The density a decoded image is the location of."""

    density: Literal["gaussian", "laplace"] = "gaussian"
    """Gaussian gives squared error, Laplace absolute error, each with a learned scale."""
    scale_floor: PositiveFloat = 0.01
    """Smallest scale the model may learn, in the units of the data below."""
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor on this modality's NLL; other than 1 the total is no longer a bound on log p(x)."""


class DepthLikelihood(Likelihood):
    """The density of depth."""

    density: Literal["gaussian", "laplace"] = "laplace"
    """Gaussian gives squared error, Laplace absolute error, each with a learned scale."""
    space: Literal["metric", "log"] = "metric"
    """Whether the density is over metres or over log metres."""


class SegLikelihood(Section):
    """The density of labels: categorical over classes."""

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor on this modality's NLL; other than 1 the total is no longer a bound on log p(x)."""


class Objective(Section):
    """What training minimises."""

    rgb: Likelihood = Likelihood()
    """Density of RGB, values in 0..1."""
    depth: DepthLikelihood = DepthLikelihood()
    """Density of depth, in units of the training set's standard deviation."""
    seg: SegLikelihood = SegLikelihood()
    """Density of labels."""
    beta: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor on the KL terms."""
    beta_warmup_samples: Count = 6_400
    """Samples over which beta rises linearly from 0."""
    mvtcae_alpha: Fraction = 5 / 6
    """MVTCAE's trade-off between the joint KL (0) and agreement with each modality's expert (1)."""


class Evaluate(Section):
    """Scores on the test split."""

    limit: Positive | None = None
    """Use only the first so many test samples; null: all."""
    batch: Positive = without_effect(100)
    """Samples decoded at once."""
    pictures: Annotated[int, Field(ge=1, le=32)] = 8
    """Columns of each picture grid."""
    nll_samples: Count = 256
    """Test samples whose NLL is estimated; 0: none."""
    nll_importance: Positive = 16
    """Importance samples K per test sample in the NLL estimate."""


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
    prior: Literal["normal", "aggregate"] = "aggregate"
    """Draw latents from N(0, I) or from a Gaussian fitted to the training set's posteriors."""
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
