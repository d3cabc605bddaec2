"""The density that a trained model's scenes are drawn from, fitted to what it makes of training samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pipeline.config.schema import LatentPriorName
from pipeline.config.system import posterior_kind
from pipeline.data.batch import Batch
from pipeline.models.gaussian import Gaussian
from pipeline.models.pretrained import Pretrained
from pipeline.models.prior import LatentPrior, assumed_prior, fit_prior


def fit_training_prior(
    pretrained: Pretrained, batches: Iterable[Batch], kind: LatentPriorName, seed: int
) -> LatentPrior:
    """Encode training samples and fit a prior to their posteriors; on the CPU, wherever the model is.

    A generator without encoders was trained on draws from N(0, I), so those are what it is given. With
    `training` nothing is fitted.

    Args:
        pretrained: The model.
        batches: Training samples, where the model is; read only if the prior is fitted.
        kind: Which density.
        seed: Decides where the fit of a mixture or a flow begins.

    Raises:
        ValueError: If there is no batch to fit to.
    """
    model = pretrained.model
    if kind == "training" or posterior_kind(pretrained.model_config, pretrained.objective) == "none":
        return assumed_prior(*model.code_prior, model.latent, model.private)
    shared: list[Gaussian] = []
    private: dict[str, list[Gaussian]] = {name: [] for name in model.private}
    present: list[torch.Tensor] = []
    with torch.no_grad():
        for batch in batches:
            experts = model.encode(batch)
            posterior = model.posterior(experts, experts.present)
            shared.append(posterior.shared)
            present.append(experts.present.cpu())
            for name, gaussian in posterior.private.items():
                private[name].append(gaussian)
    if not shared:
        raise ValueError("there is no batch to fit a prior to")
    has = torch.cat(present, dim=1)
    return fit_prior(
        kind,
        _joined(shared),
        {name: _joined(parts) for name, parts in private.items()},
        {name: has[model.modalities.index(name)] for name in model.private},
        seed,
    )


def _joined(parts: list[Gaussian]) -> Gaussian:
    return Gaussian(
        torch.cat([part.mean.cpu() for part in parts]), torch.cat([part.logvar.cpu() for part in parts])
    )
