"""What latents are drawn from: what training held codes to, or a density fitted to training samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config.schema import FittedPriorName
from pipeline.errors import InputError
from pipeline.models.code_prior import CodeDensity, CodePrior
from pipeline.models.gaussian import Gaussian
from pipeline.models.prior_flow import CouplingFlow, fit_flow
from pipeline.models.prior_gaussian import FullGaussian, aggregate_prior, pooled_moments, standard_normal
from pipeline.models.prior_mixture import GaussianMixture, fit_mixture

PRIOR_FILE = "prior.safetensors"


@runtime_checkable
class LatentDensity(Protocol):
    """What latents can be drawn from."""

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
        """So many independent draws."""


@dataclass(frozen=True)
class LatentPrior:
    """Independent densities of the shared latent and of each private one."""

    shared: LatentDensity
    private: dict[str, LatentDensity]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw `count` rows: the shared latent, and the private latent of each modality that has one."""
        shared = self.shared.draw(count, generator)
        return shared, {name: part.draw(count, generator) for name, part in self.private.items()}


def standard_prior(latent: int, private: Mapping[str, int]) -> LatentPrior:
    """N(0, I) for the shared latent and for every private one."""
    return LatentPrior(
        standard_normal(latent), {name: standard_normal(size) for name, size in private.items()}
    )


def assumed_prior(kind: CodePrior, components: int, latent: int, private: Mapping[str, int]) -> LatentPrior:
    """What training holds codes to: N(0, I) but for the shared code of some adversarial autoencoders.

    Args:
        kind: Of the shared code's prior.
        components: Gaussians on a ring, or categories.
        latent: Numbers in a shared code.
        private: Numbers in the private code of each modality that has one.
    """
    standard = standard_prior(latent, private)
    return standard if kind == "normal" else replace(standard, shared=CodeDensity(kind, components, latent))


def refit_prior(
    source: LatentPrior,
    shared: Gaussian,
    private: Mapping[str, Gaussian],
    present: Mapping[str, Bool[Tensor, " batch"]],
    pseudo_count: float,
) -> LatentPrior:
    """Move a Gaussian prior towards the posteriors of a few samples; see `pooled_moments`.

    Args:
        source: The prior before; its parts are Gaussians.
        shared: Posteriors of the shared latent.
        private: Posteriors of the private latents.
        present: Rows that have the modality; a private latent learns from these alone.
        pseudo_count: How many samples the source is worth.
    """

    def moved(part: LatentDensity, posterior: Gaussian) -> FullGaussian:
        assert isinstance(part, FullGaussian), "only a Gaussian has moments to move"
        return pooled_moments(part, posterior, pseudo_count)

    parts: dict[str, LatentDensity] = {
        name: moved(part, _rows(private[name], present[name])) for name, part in source.private.items()
    }
    return LatentPrior(moved(source.shared, shared), parts)


def fit_aggregate_prior(
    shared: Gaussian, private: Mapping[str, Gaussian], present: Mapping[str, Bool[Tensor, " batch"]]
) -> LatentPrior:
    """`aggregate_prior` of the shared and of every private latent, the latter from rows that have it."""
    return fit_prior("aggregate", shared, private, present, seed=0)


def fit_prior(
    kind: FittedPriorName,
    shared: Gaussian,
    private: Mapping[str, Gaussian],
    present: Mapping[str, Bool[Tensor, " batch"]],
    seed: int,
) -> LatentPrior:
    """Fit a density to the aggregate posterior of the shared and of every private latent.

    Args:
        kind: One Gaussian, a mixture of Gaussians, or a flow.
        shared: Posteriors of the shared latent.
        private: Posteriors of the private latents.
        present: Rows that have the modality; a private latent learns from these alone.
        seed: Decides where the fit of a mixture or a flow begins.

    Source: Ghosh et al. 2020 (arXiv:1903.12436), ex-post density estimation; Dai & Wipf 2019
        (arXiv:1903.05789) for why q(z) is not N(0, I).
    """

    def fitted(posterior: Gaussian) -> LatentDensity:
        match kind:
            case "aggregate":
                return aggregate_prior(posterior)
            case "gmm":
                return fit_mixture(posterior, torch.Generator().manual_seed(seed))
            case "flow":
                return fit_flow(posterior, seed)

    parts = {name: fitted(_rows(part, present[name])) for name, part in private.items()}
    return LatentPrior(fitted(shared), parts)


def prior_tensors(prior: LatentPrior) -> dict[str, Tensor]:
    """All that a prior is, by name, for `prior_of`."""
    parts = {"shared": prior.shared} | {f"private.{name}": part for name, part in prior.private.items()}
    return {
        f"{name}.{own}": tensor.contiguous()
        for name, part in parts.items()
        for own, tensor in _tensors(part).items()
    }


def prior_of(tensors: Mapping[str, Tensor]) -> LatentPrior:
    """The prior that has these tensors; private latents are drawn in the order they come.

    Raises:
        KeyError: If one is missing.
        RuntimeError: If one has another shape than it must.
    """
    parts: dict[str, LatentDensity] = {}
    for name in dict.fromkeys(map(_part_of, tensors)):
        own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if _part_of(key) == name}
        parts[name] = _density(own)
    shared = parts.pop("shared")
    return LatentPrior(shared, {name.removeprefix("private."): part for name, part in parts.items()})


def save_prior(path: Path, prior: LatentPrior) -> None:
    """Write a prior as a safetensors file: equal priors give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(prior_tensors(prior), path)


def load_prior(path: Path) -> LatentPrior:
    """Read what `save_prior` wrote; nothing in it is executed.

    Raises:
        InputError: If the file is missing, damaged or holds something else.
    """
    try:
        return prior_of(dict(sorted(load_file(path).items())))
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: no latent prior can be read from it ({reason}); run the stage again that wrote it"
        ) from None


def widths(prior: LatentPrior) -> tuple[int, dict[str, int]]:
    """Dimensions of the shared latent and of each private one that a prior draws."""
    shared, private = prior.sample(1, torch.Generator().manual_seed(0))
    return shared.shape[1], {name: value.shape[1] for name, value in private.items()}


def _tensors(part: LatentDensity) -> dict[str, Tensor]:
    match part:
        case CodeDensity(kind, components, latent):
            return {f"code.{kind}": torch.tensor([components, latent])}
        case FullGaussian(mean, covariance):
            return {"mean": mean, "covariance": covariance}
        case GaussianMixture(weights, means, covariances):
            return {"weights": weights, "means": means, "covariances": covariances}
        case CouplingFlow():
            return {f"flow.{name}": tensor for name, tensor in part.state_dict().items()}
    raise TypeError(f"a {type(part).__name__} cannot be saved")


def _density(tensors: Mapping[str, Tensor]) -> LatentDensity:
    """The density that holds such tensors.

    Raises:
        KeyError: If a tensor is missing.
    """
    for kind in get_args(CodePrior):
        if (numbers := tensors.get(f"code.{kind}")) is not None:
            return CodeDensity(kind, *numbers.tolist())
    if "weights" in tensors:
        return GaussianMixture(tensors["weights"], tensors["means"], tensors["covariances"])
    if "flow.mean" not in tensors:
        return FullGaussian(tensors["mean"], tensors["covariance"])
    state = {name.removeprefix("flow."): tensor for name, tensor in tensors.items()}
    couplings = {int(name.split(".")[1]) for name in state if name.startswith("couplings.")}
    hidden = len(state["couplings.0.inner.bias"]) if couplings else 1
    width = len(state["mean"])
    with torch.random.fork_rng(devices=[]):  # its first weights, soon replaced, are nobody else's business
        flow = CouplingFlow(standard_normal(width), len(couplings), hidden)
    flow.load_state_dict(state)
    return flow.requires_grad_(False)


def _part_of(name: str) -> str:
    """`shared`, or `private.<modality>`."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "private" else words[0]


def _rows(posterior: Gaussian, chosen: Bool[Tensor, " batch"]) -> Gaussian:
    return Gaussian(posterior.mean[chosen], posterior.logvar[chosen])
