"""The density that a trained model's scenes are drawn from, fitted to what it makes of training samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from pipeline.config.schema import LatentPriorName
from pipeline.config.system import posterior_kind
from pipeline.data.batch import Batch
from pipeline.models.gaussian import Gaussian
from pipeline.models.pretrained import Pretrained
from pipeline.models.prior import LatentPrior, assumed_prior, fit_prior


def needs_posteriors(pretrained: Pretrained, kind: LatentPriorName) -> bool:
    """Whether the prior is fitted at all.

    A generator without encoders was trained on draws from N(0, I), so those are what it is given. With
    `training` nothing is fitted.
    """
    encodes = posterior_kind(pretrained.model_config, pretrained.objective) != "none"
    return encodes and kind != "training"


@torch.no_grad()
def training_posteriors(pretrained: Pretrained, batch: Batch) -> dict[str, np.ndarray]:
    """Posteriors of training samples given all that is present, as `fit_training_prior` takes them.

    Args:
        pretrained: The model.
        batch: Training samples, where the model is.

    Returns:
        `shared/mean`, `shared/logvar`, the same of each private latent, and `<modality>/present` for those.
    """
    model = pretrained.model
    experts = model.encode(batch)
    posterior = model.posterior(experts, experts.present)
    arrays = {}
    for name, gaussian in {"shared": posterior.shared, **posterior.private}.items():
        arrays[f"{name}/mean"] = gaussian.mean.numpy(force=True)
        arrays[f"{name}/logvar"] = gaussian.logvar.numpy(force=True)
    for name in model.private:
        arrays[f"{name}/present"] = experts.present[model.modalities.index(name)].numpy(force=True)
    return arrays


def fit_training_prior(
    pretrained: Pretrained, posteriors: Iterable[Mapping[str, np.ndarray]], kind: LatentPriorName, seed: int
) -> LatentPrior:
    """Fit a prior to the posteriors of training samples; on the CPU, wherever the model is.

    Args:
        pretrained: The model.
        posteriors: `training_posteriors` of some samples each; read only if the prior `needs_posteriors`.
        kind: Which density.
        seed: Decides where the fit of a mixture or a flow begins.

    Raises:
        ValueError: If there is nothing to fit to.
    """
    model = pretrained.model
    if kind == "training" or not needs_posteriors(pretrained, kind):
        return assumed_prior(*model.code_prior, model.latent, model.private)
    parts = list(posteriors)
    if not parts:
        raise ValueError("there are no posteriors to fit a prior to")

    def joined(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([part[name] for part in parts]))

    def gaussian(name: str) -> Gaussian:
        return Gaussian(joined(f"{name}/mean"), joined(f"{name}/logvar"))

    return fit_prior(
        kind,
        gaussian("shared"),
        {name: gaussian(name) for name in model.private},
        {name: joined(f"{name}/present") for name in model.private},
        seed,
    )
