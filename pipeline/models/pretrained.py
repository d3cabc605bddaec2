"""A trained model on disk: `model.safetensors`, and `model.json` with all it takes to rebuild it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.data.batch import Batch
from pipeline.data.modality import DatasetInfo, DepthStatistics, Factor
from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder, build_autoencoder
from pipeline.models.variables import Posterior

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Pretrained:
    """A trained model, ready to use (evaluation mode, float32), and what it was trained on."""

    model: SharedLatentAutoencoder
    info: DatasetInfo
    model_config: Model
    objective: Objective


def save_pretrained(
    directory: Path,
    model: SharedLatentAutoencoder,
    model_config: Model,
    objective: Objective,
    info: DatasetInfo,
) -> None:
    """Write both files; the same weights and arguments give the same bytes."""
    described = {
        "format": FORMAT,
        "model": model_config.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "info": asdict(info),
    }
    (directory / WEIGHTS).write_bytes(weight_bytes(model))
    text = json.dumps(described, indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load_pretrained(directory: Path) -> Pretrained:
    """Read what `save_pretrained` wrote. Nothing in the files is executed.

    Raises:
        InputError: If a file is missing, damaged or of another format; it says which.
    """
    path = directory / DESCRIPTION
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise InputError(
                f"{path}: format {described['format']}, but this version reads {FORMAT}; train again"
            )
        info = _info(described["info"])
        model_config, objective = Model(**described["model"]), Objective(**described["objective"])
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; is this the directory of a finished train stage?"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: damaged ({_one_line(error)}); train again or copy the file anew") from None
    model = build_autoencoder(model_config, objective, info, seed=0)
    _load_weights(model, directory / WEIGHTS)
    return Pretrained(model.eval().requires_grad_(False), info, model_config, objective)


def posterior_mean(
    model: SharedLatentAutoencoder, batch: Batch, given: Sequence[str]
) -> tuple[Posterior, Float[Tensor, "batch latent"], dict[str, Float[Tensor, "batch _"]]]:
    """Encode some modalities only, without noise.

    Args:
        model: Trained.
        batch: Samples; what is absent from a row stays unseen there.
        given: Names of the modalities the model may see; none: the prior.

    Returns:
        The posterior, its shared mean, and its private means (the prior's mean, 0, where not given).
    """
    seen = {name: modality for name, modality in batch.modalities.items() if name in given}
    experts = model.encode(Batch(seen, batch.key, batch.index))
    posterior = model.posterior(experts, torch.ones_like(experts.present))
    return (
        posterior,
        posterior.shared.mean,
        {name: private.mean for name, private in posterior.private.items()},
    )


def weight_bytes(model: nn.Module) -> bytes:
    """All parameters in the safetensors format; equal weights give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def model_digest(directory: Path) -> str:
    """SHA-256 of the weights in a directory: what names a model in everything made from it."""
    return hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; is this the directory of a finished train stage?"
        ) from None
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{path}: does not hold this model's weights ({_one_line(error)}); train again"
        ) from None


def _info(values: dict[str, Any]) -> DatasetInfo:
    """A `DatasetInfo` from JSON, whose lists are its tuples."""
    depth = values["depth"]
    tuples = {
        "modalities": tuple(values["modalities"]),
        "class_names": tuple(values["class_names"]),
        "factors": tuple(Factor(factor["name"], tuple(factor["values"])) for factor in values["factors"]),
        "depth": DepthStatistics(**depth) if depth else None,
    }
    return DatasetInfo(**(values | tuples))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
