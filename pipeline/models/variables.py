"""What passes between the parts of the model: experts, posteriors, noise, and decoded images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.gaussian import Gaussian


@dataclass(frozen=True)
class Experts:
    """What each modality alone says.

    Attributes:
        feature: Of each modality, in the order of the model. Where experts have a density: the mean of
            the shared latent, then the natural log of its variances; under a joint encoder what it pools.
        present: False where a row lacks the modality; such rows of `feature` mean nothing.
        private: q(private latent | modality) of each modality that has private latents.
        sample: What was encoded, where codes are found by inversion and not by encoders.
    """

    feature: Float[Tensor, "modality batch feature"]
    present: Bool[Tensor, "modality batch"]
    private: dict[str, Gaussian]
    sample: Batch | None = None

    @property
    def mean(self) -> Float[Tensor, "modality batch latent"]:
        """Means of the experts' densities."""
        return self.feature.chunk(2, dim=-1)[0]

    @property
    def logvar(self) -> Float[Tensor, "modality batch latent"]:
        """Natural log of the variances of the experts' densities."""
        return self.feature.chunk(2, dim=-1)[1]

    def repeated(self, views: int) -> Experts:
        """The same rows several times, one block after the other."""
        if views == 1:
            return self
        private = {
            name: Gaussian(q.mean.repeat(views, 1), q.logvar.repeat(views, 1))
            for name, q in self.private.items()
        }
        sample = None if self.sample is None else self.sample.repeated(views)
        return Experts(self.feature.repeat(1, views, 1), self.present.repeat(1, views), private, sample)


@dataclass(frozen=True)
class Posterior:
    """Over the shared latent and over each modality's private one (its prior where it is not given).

    Attributes:
        shared: The density; of an implicit posterior a Gaussian of its mean and variance.
        private: Of each modality that has private latents.
        feature: What an implicit posterior is sampled from; None for others.
    """

    shared: Gaussian
    private: dict[str, Gaussian]
    feature: Float[Tensor, "batch feature"] | None = None


@dataclass(frozen=True)
class Decoded:
    """Locations of the likelihoods.

    Attributes:
        rgb: 0..1, not clamped.
        depth: Standardised: ((log) metres - mean) / std.
        seg: Logits over classes.
    """

    rgb: Float[Tensor, "batch 3 height width"] | None
    depth: Float[Tensor, "batch 1 height width"] | None
    seg: Float[Tensor, "batch class height width"] | None

    def detached(self) -> Decoded:
        """The same images without their graph."""
        return Decoded(
            *(None if part is None else part.detach() for part in (self.rgb, self.depth, self.seg))
        )


@dataclass(frozen=True)
class Noise:
    """What one pass draws.

    Attributes:
        shared: N(0, I) that turns a posterior into a latent; a row per view of a row of the batch.
        private: The same for each private latent.
        dropped: In [0, 1), by `encode/rgb`, `decode/rgb` ...: what dropout drops of each network.
    """

    shared: Float[Tensor, "rows latent"]
    private: dict[str, Float[Tensor, "rows _"]] = field(default_factory=dict)
    dropped: dict[str, Float[Tensor, "_ innermost"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """Everything the objective needs of one pass.

    Rows are views of the batch's rows, one block of rows per view and draw.

    Attributes:
        decoded: Of a draw from the posterior; None where there are no encoders.
        posterior: Given what `given` marks.
        experts: Of all that is present; one row per row of the batch.
        given: What the posterior saw.
        shared: The draw of the shared latent.
        private: The draws of the private latents.
        generated: Scenes decoded from draws of N(0, I), one per row of the batch; None unless asked for.
    """

    decoded: Decoded | None
    posterior: Posterior
    experts: Experts
    given: Bool[Tensor, "modality rows"]
    shared: Float[Tensor, "rows latent"]
    private: dict[str, Float[Tensor, "rows _"]]
    generated: Decoded | None = None


def repeated_mask(mask: Bool[Tensor, "modality batch"], views: int) -> Bool[Tensor, "modality rows"]:
    """The same rows several times, one block after the other."""
    return mask if views == 1 else torch.cat([mask] * views, dim=1)
