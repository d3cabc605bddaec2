"""The one schema: every value a run depends on, decided here and passed down as an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

ModalityName = Literal["rgb", "depth", "seg"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
RESERVED_NAMES = ("datasets", "mlflow-artifacts")
PositiveFloat = Annotated[float, Field(gt=0.0)]


def without_effect(default: object) -> Any:
    """A field that changes speed or cadence but never a result, so it stays out of stage keys."""
    return Field(default=default, json_schema_extra={"affects_result": False})


class Section(BaseModel):
    """Frozen, no unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False, protected_namespaces=()
    )


class RoomsSource(Section):
    """One object in a room: the Shapes3D factors and, around them, nuisances."""

    kind: Literal["rooms"]
    count: Positive = 12_000
    """Number of rooms, drawn without repetition from the grid of 480,000 factor combinations."""
    seed: Count = 0
    """Chooses which rooms are drawn and their nuisances."""
    nuisance: Fraction = 1.0
    """Strength of what the factors do not name (camera, light, texture, position); 0 switches it off."""
    antialias: bool = True
    """Smooth RGB edges; depth and segmentation are never blended."""
    sensor_noise: bool = False
    """Kinect-like depth noise, missing depth at edges and RGB read noise."""


class TabletopSource(Section):
    """One to several objects on a table."""

    kind: Literal["tabletop"]
    count: Positive = 12_000
    """Number of scenes."""
    seed: Count = 0
    """Chooses the scenes."""
    max_objects: Annotated[int, Field(ge=1, le=16)] = 6
    """Most objects in a scene; each scene draws 1 to this many."""
    antialias: bool = True
    """Smooth RGB edges; depth and segmentation are never blended."""
    sensor_noise: bool = True
    """Kinect-like depth noise, missing depth at edges and RGB read noise."""


class FolderRgb(Section):
    """Where the RGB images are."""

    directory: str = "rgb"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched (`_rgb` for `0001_rgb.jpg`)."""


class FolderDepth(Section):
    """Where the depth maps are and what a stored number means."""

    directory: str = "depth"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched."""
    unit: Literal["m", "cm", "mm", "0.1mm"] | PositiveFloat
    """What one stored unit is: a name, or its length in metres. Mandatory: it is never guessed."""
    invalid: float = 0.0
    """The stored value that means no measurement; NaN and infinity always do."""


class FolderSeg(Section):
    """Where the label maps are and what their values mean."""

    directory: str = "seg"
    """Folder under `root`; files in sub-folders belong to it too."""
    suffix: str = ""
    """Removed from the end of a file's stem before it is matched."""
    ignore: Annotated[int, Field(ge=0, le=255)] = 255
    """The stored value that means no label."""


class FolderSource(Section):
    """A tree of images, joined on the stem of the file name."""

    kind: Literal["folder"]
    root: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        json_schema_extra={"affects_result": False}
    )
    """The folder; relative to the working directory. Moving it changes nothing, other files in it do."""
    rgb: FolderRgb | None = FolderRgb()
    """RGB images (PNG or JPEG), or null when there are none."""
    depth: FolderDepth | None = None
    """Depth maps (16-bit PNG or .npy), or null when there are none."""
    seg: FolderSeg | None = FolderSeg()
    """Label maps (8-bit PNG or .npy), or null when there are none."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the label values. Empty: read from `meta`, else named by number."""
    meta: str | None = None
    """A JSON file under `root` with `classes` and, if wanted, `splits: {train: [stem, ...], test: [...]}`."""

    @model_validator(mode="after")
    def _has_a_modality(self) -> FolderSource:
        if self.rgb is None and self.depth is None and self.seg is None:
            raise ValueError("rgb, depth and seg are all null; at least one modality is needed")
        return self


Source = Annotated[RoomsSource | TabletopSource | FolderSource, Field(discriminator="kind")]


class HeldOut(Section):
    """Samples kept out of training and testing, for the few-shot stage."""

    factors: dict[str, tuple[int | str, ...]] = {}
    """Factor name to the values held out (`shape: [capsule]`); for built-in scenes."""
    classes: tuple[str, ...] = ()
    """Every sample in which one of these classes has a labelled pixel is held out."""
    limit: Positive | None = None
    """Most held-out scenes that a built-in source renders, the first drawn; null: all of them."""


class Data(Section):
    """What the model is trained on; the dataset directory depends on this section alone."""

    source: Source
    """Where samples come from."""
    image_size: Literal[32, 64, 128, 256] = 64
    """Height and width in pixels; images are centre-cropped to a square and resized."""
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
    encoding: Literal["auto", "npy", "png"] = "auto"
    """How arrays are stored: npy (fast) or png (small). auto: npy up to 64 px, png above."""
    workers: Count = without_effect(0)
    """Processes that read or render; 0 takes one per processor."""


class Model(Section):
    """Networks and how the modalities share a latent."""

    latent: Positive = 32
    """Dimensions of the shared latent."""
    private: dict[ModalityName, Positive] = {"rgb": 16}
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
