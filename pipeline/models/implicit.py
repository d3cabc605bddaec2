"""A posterior that can be drawn from but has no density."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.fusion import at_least_float32
from pipeline.models.gaussian import Gaussian

SMALLEST_VARIANCE = 6e-6
"""Moments are not taken for narrower than e^-12, the narrowest that a Gaussian expert can be."""

PROBES = 512
"""Draws that moments are taken over."""


class ImplicitPosterior(nn.Module):
    """z = a_0(x) + sum over l of a_l(x) * v_l(eps_l), elementwise, with eps_l from N(0, I).

    The v_l bend noise into shapes that all samples share, the a_l scale and place them for one sample.
    As the sources are independent, mean and variance of z given x follow from those of the v_l, with no
    further draw:

        E[z|x] = a_0 + sum_l a_l E[v_l],        Var[z|x] = sum_l a_l^2 Var[v_l]

    Each v_l(eps) is eps plus a network that is 0 at first, so the posterior starts as the Gaussian
    N(a_0, sum_l a_l^2) and keeps noise in every dimension.

    Moments of the v_l are means over a fixed set of draws, `probe`, so they are functions of the weights
    alone; what error they have, the discriminator of the contrast corrects.

    Attributes:
        latent: Dimensions of z.
        sources: How many v_l there are.
        noise_size: Dimensions of the noise of one draw.
        probe: The fixed draws; not saved with the weights.

    Source: Mescheder, Nowozin & Geiger 2017 (arXiv:1701.04722), the encoder with cheap moments for
        adaptive contrast.
    """

    probe: Float[Tensor, "draw latent"]

    def __init__(self, features: int, latent: int, sources: int = 4, width: int = 64) -> None:
        super().__init__()
        self.latent, self.sources = latent, sources
        self.noise_size = sources * latent
        self.coefficients = nn.Linear(features, (1 + sources) * latent)
        self.bends = nn.ModuleList(_bend(latent, width) for _ in range(sources))
        self.register_buffer("probe", even_normals(PROBES, latent), persistent=False)
        with torch.no_grad():  # standard deviations of about 1
            self.coefficients.bias[:latent] = 0.0
            self.coefficients.bias[latent:] = sources**-0.5

    def forward(
        self, features: Float[Tensor, "batch feature"], noise: Float[Tensor, "batch noise"]
    ) -> tuple[Float[Tensor, "batch latent"], Gaussian]:
        """One draw per row, and the Gaussian with the moments of each row's posterior.

        Args:
            features: Of what the posterior sees.
            noise: From N(0, I), `noise_size` numbers per row.

        Returns:
            `sample` and `moments`.
        """
        return self.sample(features, noise), self.moments(features)

    def sample(
        self, features: Float[Tensor, "batch feature"], noise: Float[Tensor, "batch noise"]
    ) -> Float[Tensor, "batch latent"]:
        """One draw per row, a function of the noise (`noise_size` numbers from N(0, I) per row)."""
        coefficients = self._coefficients(features)
        parts = rearrange(noise, "row (source latent) -> source row latent", latent=self.latent)
        return coefficients[:, 0] + (coefficients[:, 1:] * self._shapes(parts)).sum(dim=1)

    @torch.no_grad()
    def moments(self, features: Float[Tensor, "batch feature"]) -> Gaussian:
        """Mean and variance of z given each row: constants, through which no gradient goes."""
        coefficients = self._coefficients(features)
        shapes = self._shapes(self.probe.expand(self.sources, -1, -1))
        mean = coefficients[:, 0] + (coefficients[:, 1:] * shapes.mean(dim=0)).sum(dim=1)
        variance = (coefficients[:, 1:].square() * shapes.var(dim=0, correction=0)).sum(dim=1)
        return Gaussian(mean, variance.clamp(min=SMALLEST_VARIANCE).log())

    def _coefficients(self, features: Tensor) -> Float[Tensor, "batch term latent"]:
        """a_0, then the a_l."""
        flat = at_least_float32(self.coefficients(features))
        return rearrange(flat, "batch (term latent) -> batch term latent", latent=self.latent)

    def _shapes(self, noise: Float[Tensor, "source row latent"]) -> Float[Tensor, "row source latent"]:
        """v_l of each source's own noise."""
        noise = noise.to(self.probe.dtype)
        bent = [part + at_least_float32(bend(part)) for bend, part in zip(self.bends, noise, strict=True)]
        return torch.stack(bent, dim=1)


def even_normals(count: int, width: int) -> Float[Tensor, "count width"]:
    """Draws from N(0, I) spread evenly, always the same: every column has mean 0 and variance 1 exactly.

    Source: Sobol' 1967, with Owen's scrambling, through the inverse normal distribution; in pairs of
        opposites.
    """
    engine = torch.quasirandom.SobolEngine(width, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    even = engine.draw(count // 2, dtype=torch.float64)
    normal: Tensor = torch.special.ndtri(even.clamp(1e-6, 1.0 - 1e-6))
    both = torch.cat([normal, -normal])
    return (both / both.std(dim=0, correction=0)).float()


def _bend(latent: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, latent)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
