"""Diagonal Gaussians."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag(exp(logvar))), one per row."""

    mean: Float[Tensor, "batch latent"]
    logvar: Float[Tensor, "batch latent"]

    def sample(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Reparameterised draw: mean + sigma * noise, with noise from N(0, I).

        Source: Kingma & Welling 2013 (arXiv:1312.6114), the reparameterisation trick.
        """
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl_to_standard(self) -> Float[Tensor, "batch latent"]:
        """KL(self || N(0, I)) in nats, per dimension.

        Source: Kingma & Welling 2013 (arXiv:1312.6114), appendix B.
        """
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)

    def kl_to(self, other: "Gaussian") -> Float[Tensor, "batch latent"]:
        """KL(self || other) in nats, per dimension."""
        ratio = torch.exp(self.logvar - other.logvar)
        distance = (self.mean - other.mean).square() * torch.exp(-other.logvar)
        return 0.5 * (other.logvar - self.logvar + ratio + distance - 1.0)

    def log_prob(self, value: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Log density in nats, per dimension."""
        distance = (value - self.mean).square() * torch.exp(-self.logvar)
        return -0.5 * (math.log(2.0 * math.pi) + self.logvar + distance)

    def rows(self, start: int, stop: int) -> "Gaussian":
        """Some neighbouring rows."""
        return Gaussian(self.mean[start:stop], self.logvar[start:stop])
