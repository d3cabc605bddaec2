"""A normalising flow fitted to posteriors: an invertible map from N(0, I) with an exact density."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.gaussian import Gaussian
from pipeline.models.prior_gaussian import FullGaussian, aggregate_prior

COUPLINGS = 6
HIDDEN = 64
MAX_LOG_SCALE = 2.0
"""A coupling scales by at most exp of this, so that no draw runs away."""

STEPS = 400
BATCH = 256
LEARNING_RATE = 3e-3
LOOK_EVERY = 50
"""Steps between looks at the posteriors kept aside; the weights of the best look are kept."""

HELD_OUT_EVERY = 5
FEWEST = 20
"""Posteriors below which the flow stays the Gaussian it starts from."""


class Coupling(nn.Module):
    """Half of the latents scaled and shifted by what the other half says.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (arXiv:1605.08803), equations 6 to 8.
    """

    def __init__(self, width: int, hidden: int, even: bool) -> None:
        super().__init__()
        order = torch.arange(width)
        self.register_buffer("kept", order[order % 2 == int(even)], persistent=False)
        self.register_buffer("moved", order[order % 2 != int(even)], persistent=False)
        self.kept: Tensor
        self.moved: Tensor
        self.inner = nn.Linear(len(self.kept), hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, 2 * len(self.moved))
        nn.init.zeros_(self.outer.weight)  # the identity at first
        nn.init.zeros_(self.outer.bias)

    def scale_and_shift(self, value: Float[Tensor, "batch latent"]) -> tuple[Tensor, Tensor]:
        """Log scale and shift of the moved half."""
        hidden = F.silu(self.middle(F.silu(self.inner(value[:, self.kept]))))
        log_scale, shift = self.outer(hidden).chunk(2, dim=1)
        return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), shift

    def to_noise(
        self, value: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, " batch"]]:
        """Towards N(0, I), and the log determinant of the Jacobian."""
        log_scale, shift = self.scale_and_shift(value)
        moved = (value[:, self.moved] - shift) * torch.exp(-log_scale)
        return self._with(value, moved), -log_scale.sum(dim=1)

    def from_noise(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The inverse of `to_noise`."""
        log_scale, shift = self.scale_and_shift(noise)
        return self._with(noise, noise[:, self.moved] * torch.exp(log_scale) + shift)

    def _with(self, value: Tensor, moved: Tensor) -> Tensor:
        return value.index_copy(1, self.moved, moved)


class CouplingFlow(nn.Module):
    """Coupling layers around a Gaussian: latents are whitened by it, then made ever more normal.

    A latent of one dimension has nothing to couple with: there the flow is the Gaussian.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (arXiv:1605.08803).
    """

    def __init__(self, gaussian: FullGaussian, couplings: int = COUPLINGS, hidden: int = HIDDEN) -> None:
        super().__init__()
        width = len(gaussian.mean)
        self.register_buffer("mean", gaussian.mean.clone())
        self.register_buffer("factor", torch.linalg.cholesky(gaussian.covariance))
        self.mean: Tensor
        self.factor: Tensor
        count = couplings if width > 1 else 0
        self.couplings = nn.ModuleList(Coupling(width, hidden, bool(i % 2)) for i in range(count))

    def to_noise(
        self, value: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, " batch"]]:
        """The noise that gives a latent, and the log determinant of that map's Jacobian."""
        noise = torch.linalg.solve_triangular(self.factor, (value - self.mean).T, upper=False).T
        log_determinant = -self.factor.diagonal().log().sum().expand(len(value))
        for coupling in self.couplings:
            noise, own = coupling.to_noise(noise)  # type: ignore[operator]
            log_determinant = log_determinant + own
        return noise, log_determinant

    def from_noise(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """The latent that noise stands for: the inverse of `to_noise`."""
        for coupling in reversed(self.couplings):
            noise = coupling.from_noise(noise)  # type: ignore[operator]
        return self.mean + noise @ self.factor.T

    def log_prob(self, value: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Log density in nats: exact, by the change of variables."""
        noise, log_determinant = self.to_noise(value)
        normal = -0.5 * (noise.square().sum(dim=1) + noise.shape[1] * math.log(2.0 * math.pi))
        return normal + log_determinant

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
        """So many independent draws."""
        return self.from_noise(torch.randn(count, len(self.mean), generator=generator))


def fit_flow(posterior: Gaussian, seed: int, steps: int = STEPS) -> CouplingFlow:
    """Fit a flow to the aggregate posterior by maximum likelihood, from `aggregate_prior` on.

    Every step sees new draws from posteriors. Every fifth posterior is kept aside, and the weights that
    explained those best are the result: it is never worse on them than the Gaussian it starts from.

    Args:
        posterior: One per sample.
        seed: Decides the first weights, rows and draws.
        steps: Optimiser steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        flow = CouplingFlow(aggregate_prior(posterior))
    if not len(flow.couplings) or len(posterior.mean) < FEWEST:
        return flow.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(posterior.mean))
    aside = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    seen = Gaussian(posterior.mean[~aside], posterior.logvar[~aside])
    unseen = _draw(Gaussian(posterior.mean[aside], posterior.logvar[aside]), generator)
    optimiser = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_nats = _weights(flow), _mean_log_density(flow, unseen)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(seen.mean), (BATCH,), generator=generator)
        value = _draw(Gaussian(seen.mean[chosen], seen.logvar[chosen]), generator)
        optimiser.zero_grad()
        (-flow.log_prob(value).mean()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % LOOK_EVERY == 0 and (nats := _mean_log_density(flow, unseen)) > best_nats:
            best, best_nats = _weights(flow), nats
    flow.load_state_dict(best)
    return flow.requires_grad_(False)


def _draw(posterior: Gaussian, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
    return posterior.sample(torch.randn(posterior.mean.shape, generator=generator))


@torch.no_grad()
def _mean_log_density(flow: CouplingFlow, value: Float[Tensor, "batch latent"]) -> float:
    return float(flow.log_prob(value).double().mean()) if len(value) else -math.inf


def _weights(flow: CouplingFlow) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in flow.state_dict().items()}
