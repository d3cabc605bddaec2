"""What training minimises: likelihoods, a latent regulariser, an image adversary, and corruption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.section import Count, Fraction, ModalityName, Positive, PositiveFloat, Section

NotNegative = Annotated[float, Field(ge=0.0)]


class Perceptual(Section):
    """Distance between features of a frozen network, added to RGB's NLL."""

    network: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        json_schema_extra={"affects_result": False}
    )
    """A safetensors file with the weights of VGG-16's convolutions."""
    weight: PositiveFloat = 1.0
    """Factor on the distance, in nats per unit."""


class RgbLikelihood(Section):
    """The density of RGB."""

    density: Literal["gaussian", "laplace", "bce"] = "gaussian"
    """Squared error or absolute error, each with a learned scale, or cross-entropy of each value in 0..1."""
    scale_floor: PositiveFloat = 0.01
    """Smallest scale the model may learn, in the units of the data below."""
    weight: NotNegative = 1.0
    """Factor on this modality's NLL; other than 1 the total is no longer a bound on log p(x)."""
    perceptual: Perceptual | None = None
    """A perceptual term beside the NLL; null: none."""


class DepthLikelihood(Section):
    """The density of depth."""

    density: Literal["gaussian", "laplace"] = "laplace"
    """Gaussian gives squared error, Laplace absolute error, each with a learned scale."""
    scale_floor: PositiveFloat = 0.01
    """Smallest scale the model may learn, in the units of the data below."""
    weight: NotNegative = 1.0
    """Factor on this modality's NLL; other than 1 the total is no longer a bound on log p(x)."""
    space: Literal["metric", "log"] = "metric"
    """Whether the density is over metres or over log metres."""


class SegLikelihood(Section):
    """The density of labels: categorical over classes."""

    weight: NotNegative = 1.0
    """Factor on this modality's NLL; other than 1 the total is no longer a bound on log p(x)."""


class NoRegulariser(Section):
    """The latent is free: a plain autoencoder."""

    kind: Literal["none"]


class KlRegulariser(Section):
    """KL(posterior || N(0, I)), or the fusion's own divergence."""

    kind: Literal["kl"] = "kl"
    free_bits: NotNegative = 0.0
    """Nats per latent, averaged over the batch, below which the KL is not pressed further."""
    capacity: PositiveFloat | None = None
    """Nats the KL is held at, reached linearly: the penalty is beta |KL - capacity|. null: none."""
    capacity_samples: Positive = 100_000
    """Samples over which the capacity is reached."""
    importance_samples: Positive = 1
    """K draws per expert in the bounds of moe and mmvaeplus; other than 1 an IWAE bound."""
    estimator: Literal["iwae", "dreg"] = "iwae"
    """Gradient of the bound with K > 1 draws: its own, or doubly reparameterised."""


class TotalCorrelation(Section):
    """KL whose total correlation, the dependence between latents, has a weight of its own."""

    kind: Literal["tc"]
    weight: NotNegative = 6.0
    """Factor on the total correlation; mutual information and the rest of the KL keep beta."""
    estimator: Literal["minibatch", "discriminator"] = "minibatch"
    """beta-TCVAE's minibatch estimate, or FactorVAE's discriminator."""
    width: Positive = 256
    """Hidden units of the discriminator."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the discriminator."""


class MmdRegulariser(Section):
    """Maximum mean discrepancy between the codes and N(0, I): WAE-MMD."""

    kind: Literal["mmd"]
    weight: PositiveFloat = 100.0
    """Factor on the discrepancy, per sample."""
    kernel: Literal["imq", "rbf"] = "imq"
    """Inverse multiquadric or Gaussian, summed over scales."""
    statistic: Literal["u", "v"] = "u"
    """Unbiased, which may be negative, or biased upward."""


class AdversarialRegulariser(Section):
    """A discriminator between codes and draws from a prior: AAE."""

    kind: Literal["adversarial"]
    weight: PositiveFloat = 10.0
    """Factor on the encoder's loss, per sample."""
    prior: Literal["normal", "mixture", "categorical"] = "normal"
    """N(0, I); a ring of Gaussians in every pair of latents; or categories beside normal styles."""
    components: Annotated[int, Field(ge=2)] = 10
    """Gaussians of a mixture, or number of categories."""
    width: Positive = 256
    """Hidden units of the discriminator."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the discriminator."""


class AvbRegulariser(Section):
    """A KL to N(0, I) estimated by a discriminator that sees the sample: adversarial variational Bayes."""

    kind: Literal["avb"]
    adaptive_contrast: bool = True
    """Compare with a Gaussian of the posterior's moments rather than with the prior."""
    width: Positive = 256
    """Hidden units of the discriminator."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the discriminator."""


Regulariser = Annotated[
    NoRegulariser
    | KlRegulariser
    | TotalCorrelation
    | MmdRegulariser
    | AdversarialRegulariser
    | AvbRegulariser,
    Field(discriminator="kind"),
]


class NoAdversary(Section):
    """Images are judged by their likelihood alone."""

    kind: Literal["none"] = "none"


class ImageAdversary(Section):
    """One discriminator over [RGB, depth where valid, validity, labels] of a scene."""

    kind: Literal["image"]
    loss: Literal["relativistic", "nonsaturating", "hinge"] = "relativistic"
    """Softplus of the difference to a paired real scene, or of each alone, or hinge."""
    fakes: Literal["reconstructions", "prior", "both"] = "both"
    """Which scenes it sees as fakes."""
    heads: Literal["patch", "global", "both"] = "both"
    """Judge patches, whole scenes or both."""
    weight: PositiveFloat = 1.0
    """Factor on the generator's loss; with `adaptive` relative to the gradient of the reconstruction."""
    adaptive: bool = True
    """Scale the generator's loss so that its gradient at the decoder's output is a share of the
    reconstruction's. Without reconstructions it has no effect."""
    r1: NotNegative = 1.0
    """Factor on the squared gradient at real scenes, halved."""
    r2: NotNegative = 1.0
    """Factor on the squared gradient at fakes, halved."""
    start_samples: Count = 6_400
    """Samples of reconstruction alone."""
    warmup_samples: Count = 3_200
    """Samples after that in which the discriminator learns alone."""
    ramp_samples: Count = 6_400
    """Samples after that over which the generator's loss rises to its weight."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of each real label spread over all classes, so that being one-hot does not give reals away."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels of the discriminator's outermost features."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the discriminator."""


Adversary = Annotated[NoAdversary | ImageAdversary, Field(discriminator="kind")]


class Corruption(Section):
    """What is done to the encoder's input; the likelihood is of the clean sample. Off by default."""

    gaussian: NotNegative = 0.0
    """Standard deviation added to RGB (0..1) and, relative, to depth."""
    masking: Fraction = 0.0
    """Share of 8 x 8 blocks hidden: RGB is grey there, depth and labels have no value."""
    salt_and_pepper: Fraction = 0.0
    """Share of RGB pixels made black or white, of depth pixels made invalid, of labels drawn at random."""
    drop: dict[ModalityName, Fraction] = Field(default={})
    """Share of rows whose modality is hidden as a whole, unless nothing else would be left."""

    @property
    def any(self) -> bool:
        """Whether it does anything."""
        return bool(self.gaussian or self.masking or self.salt_and_pepper or any(self.drop.values()))


class Objective(Section):
    """What training minimises."""

    rgb: RgbLikelihood = RgbLikelihood()
    """Density of RGB, values in 0..1."""
    depth: DepthLikelihood = DepthLikelihood()
    """Density of depth, in units of the training set's standard deviation."""
    seg: SegLikelihood = SegLikelihood()
    """Density of labels."""
    beta: NotNegative = 1.0
    """Factor on the latent regulariser."""
    beta_warmup_samples: Count = 6_400
    """Samples over which beta rises linearly from 0."""
    mvtcae_alpha: Fraction = 5 / 6
    """MVTCAE's trade-off between the joint KL (0) and agreement with each modality's expert (1)."""
    regulariser: Regulariser = KlRegulariser()
    """What shapes the latent."""
    adversary: Adversary = NoAdversary()
    """What else judges images."""
    corruption: Corruption = Corruption()
    """What encoders see of a training sample."""

    @model_validator(mode="after")
    def _bounds_of_one_kind(self) -> Objective:
        regulariser = self.regulariser
        if isinstance(regulariser, KlRegulariser) and regulariser.free_bits and regulariser.capacity:
            raise ValueError("regulariser: free_bits and capacity are two answers to one question; keep one")
        return self
