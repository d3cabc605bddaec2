"""What latents are drawn from: N(0, I), or a Gaussian fitted to posteriors, many or few."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models.gaussian import Gaussian

PRIOR_FILE = "prior.safetensors"


@dataclass(frozen=True)
class FullGaussian:
    """N(mean, covariance), the same for every row."""

    mean: Float[Tensor, " latent"]
    covariance: Float[Tensor, "latent latent"]

    def sample(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """A draw: mean + L noise, with L the Cholesky factor and noise from N(0, I)."""
        factor: Tensor = torch.linalg.cholesky(self.covariance)
        return self.mean + noise @ factor.T

    def log_prob(self, value: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Log density in nats."""
        factor: Tensor = torch.linalg.cholesky(self.covariance)
        white: Tensor = torch.linalg.solve_triangular(factor, (value - self.mean).T, upper=False)
        log_determinant = 2.0 * factor.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_determinant + len(self.mean) * math.log(2.0 * math.pi))


@dataclass(frozen=True)
class LatentPrior:
    """Independent Gaussians of the shared latent and of each private one."""

    shared: FullGaussian
    private: dict[str, FullGaussian]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw `count` rows: the shared latent, and the private latent of each modality that has one."""

        def draw(part: FullGaussian) -> Tensor:
            return part.sample(torch.randn(count, len(part.mean), generator=generator))

        return draw(self.shared), {name: draw(part) for name, part in self.private.items()}


def standard_normal(latent: int) -> FullGaussian:
    """N(0, I)."""
    return FullGaussian(torch.zeros(latent), torch.eye(latent))


def standard_prior(latent: int, private: Mapping[str, int]) -> LatentPrior:
    """N(0, I) for the shared latent and for every private one: what training assumes."""
    return LatentPrior(
        standard_normal(latent), {name: standard_normal(size) for name, size in private.items()}
    )


def pooled_moments(source: FullGaussian, posterior: Gaussian, pseudo_count: float) -> FullGaussian:
    """Fit a Gaussian to posteriors, as if `pseudo_count` earlier samples had the source's moments.

    With n posteriors N(m_i, diag(v_i)), their mean m and their spread S, which is the mean over i of
    (m_i - m)(m_i - m)^T + diag(v_i), and w = n / (n + pseudo_count):

        mean       = (1 - w) mean_0 + w m
        covariance = (1 - w) covariance_0 + w S + w (1 - w) (m - mean_0)(m - mean_0)^T

    This is the posterior mean under a normal-inverse-Wishart prior with kappa_0 = pseudo_count,
    nu_0 = pseudo_count + latent + 1 and Psi_0 = pseudo_count * covariance_0 (so that its own mean is
    the source), with each latent's sufficient statistics replaced by their expectation under its
    posterior: one M step of variational EM. No posteriors give the source back; many forget it.

    Args:
        source: What is believed before.
        posterior: One per sample.
        pseudo_count: How many samples the belief is worth.

    Returns:
        The fitted Gaussian; positive definite when the source is.

    Raises:
        ValueError: If pseudo_count is not positive.

    Source: Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution", section 9
        (normal-inverse-Wishart prior), with the mean of the inverse Wishart for the covariance.
    """
    if pseudo_count <= 0:
        raise ValueError(f"pseudo_count must be positive, not {pseudo_count}")
    count = len(posterior.mean)
    if count == 0:
        return source
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    old_mean, old_covariance = source.mean.double(), source.covariance.double()
    weight = count / (count + pseudo_count)
    centred = mean - mean.mean(0)
    spread = centred.T @ centred / count + torch.diag(variance.mean(0))
    shift = mean.mean(0) - old_mean
    covariance = (
        (1 - weight) * old_covariance + weight * spread + weight * (1 - weight) * torch.outer(shift, shift)
    )
    return FullGaussian((old_mean + weight * shift).to(source.mean), covariance.to(source.covariance))


def aggregate_prior(posterior: Gaussian) -> FullGaussian:
    """The Gaussian with the moments of the aggregate posterior, mean over samples of q(z|x).

    Shrunk towards N(0, I) by one imagined sample per dimension, which matters only for small sets.

    Source: Hoffman & Johnson 2016, "ELBO surgery", for the aggregate posterior as the best prior.
    """
    latent = posterior.mean.shape[1]
    return pooled_moments(standard_normal(latent), posterior, float(latent))


def refit_prior(
    source: LatentPrior,
    shared: Gaussian,
    private: Mapping[str, Gaussian],
    present: Mapping[str, Bool[Tensor, " batch"]],
    pseudo_count: float,
) -> LatentPrior:
    """Move a prior towards the posteriors of a few samples; see `pooled_moments`.

    Args:
        source: The prior before.
        shared: Posteriors of the shared latent.
        private: Posteriors of the private latents.
        present: Rows that have the modality; a private latent learns from these alone.
        pseudo_count: How many samples the source is worth.
    """
    parts = {
        name: pooled_moments(part, _rows(private[name], present[name]), pseudo_count)
        for name, part in source.private.items()
    }
    return LatentPrior(pooled_moments(source.shared, shared, pseudo_count), parts)


def fit_aggregate_prior(
    shared: Gaussian, private: Mapping[str, Gaussian], present: Mapping[str, Bool[Tensor, " batch"]]
) -> LatentPrior:
    """`aggregate_prior` of the shared and of every private latent, the latter from rows that have it."""
    parts = {name: aggregate_prior(_rows(part, present[name])) for name, part in private.items()}
    return LatentPrior(aggregate_prior(shared), parts)


def save_prior(path: Path, prior: LatentPrior) -> None:
    """Write a prior as a safetensors file."""
    parts = {"shared": prior.shared} | {f"private.{name}": part for name, part in prior.private.items()}
    tensors = {f"{name}.mean": part.mean.contiguous() for name, part in parts.items()}
    tensors |= {f"{name}.covariance": part.covariance.contiguous() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def load_prior(path: Path) -> LatentPrior:
    """Read what `save_prior` wrote.

    Raises:
        InputError: If the file is missing, damaged or holds something else.
    """
    try:
        tensors = load_file(path)
        names = sorted(name.removesuffix(".mean") for name in tensors if name.endswith(".mean"))
        parts = {name: FullGaussian(tensors[f"{name}.mean"], tensors[f"{name}.covariance"]) for name in names}
        shared = parts.pop("shared")
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: no latent prior can be read from it ({error}); run adapt again") from None
    return LatentPrior(shared, {name.removeprefix("private."): part for name, part in parts.items()})


def _rows(posterior: Gaussian, chosen: Bool[Tensor, " batch"]) -> Gaussian:
    return Gaussian(posterior.mean[chosen], posterior.logvar[chosen])
