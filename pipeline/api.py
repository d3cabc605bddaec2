"""Use a trained model from Python: numpy arrays in, numpy arrays out.

    from pipeline.api import Triptych

    model = Triptych.from_pretrained("runs/demo/train")
    scene = model.translate(rgb=image, to=("depth", "seg"))
    scene.depth  # metres

An image is uint8 (height, width, 3), depth float metres (height, width) with NaN where there is none,
a label map uint8 (height, width) with 255 where there is none; each may have a leading batch axis,
and what comes out has one exactly if what went in had.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import IGNORE_INDEX, DatasetInfo
from pipeline.errors import InputError
from pipeline.models.adapters import attach_adapter, detach_adapter, load_adapter, load_adapter_state
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import DESCRIPTION, WEIGHTS, Pretrained, load_pretrained, model_digest
from pipeline.models.prior import PRIOR_FILE, LatentPrior, assumed_prior, load_prior, widths
from pipeline.models.scene import decode_in_parts, scenes

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_LAYOUT = {
    "rgb": "(height, width, 3) uint8",
    "depth": "(height, width) float metres",
    "seg": "(height, width) uint8",
}


@dataclass(frozen=True)
class Latent:
    """What a scene is to the model, with or without a leading batch axis.

    Attributes:
        shared: The latent all modalities are decoded from.
        private: What one modality alone is decoded from.
        shared_std: Standard deviation of the posterior that `shared` is the mean of; None for draws.
    """

    shared: Float[np.ndarray, "*batch latent"]
    private: dict[str, Float[np.ndarray, "*batch _"]]
    shared_std: Float[np.ndarray, "*batch latent"] | None = None


@dataclass(frozen=True)
class Scene:
    """Decoded modalities, those asked for; with or without a leading batch axis.

    Attributes:
        rgb: Values 0..255.
        depth: Planar z in metres.
        seg: Class indices; `Triptych.class_names` says which.
    """

    rgb: UInt8[np.ndarray, "*batch height width 3"] | None = None
    depth: Float[np.ndarray, "*batch height width"] | None = None
    seg: UInt8[np.ndarray, "*batch height width"] | None = None


class Triptych:
    """A trained model. Make one with `from_pretrained`."""

    def __init__(self, pretrained: Pretrained, prior: LatentPrior) -> None:
        self._pretrained = pretrained
        self._prior = prior

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        adapter: str | Path | None = None,
        prior: str | Path | None = None,
        revision: str | None = None,
    ) -> "Triptych":
        """Load a model; nothing in its files is executed.

        Args:
            source: A `train` directory, a run directory that has one, or `owner/name` on the Hugging
                Face Hub (downloaded; `model.safetensors` and `model.json` only).
            adapter: A directory that `adapt` wrote (`adapt/adapters/k5-draw0`): decode and sample as
                adapted to those examples.
            prior: What `sample` draws latents from: a file that `evaluate` or `adapt` wrote
                (`evaluate/prior.safetensors`); None: the adapter's, or else what training held codes to.
            revision: Branch, tag or commit on the Hub.

        Raises:
            InputError: If there is no model, it is damaged, or the adapter or prior belongs to another one.
        """
        directory = _locate(source, revision)
        pretrained = load_pretrained(directory)
        model = pretrained.model
        drawn_from = assumed_prior(*model.code_prior, model.latent, model.private)
        if adapter is not None:
            drawn_from = _adapt(model, model_digest(directory), Path(adapter))
        if prior is not None:
            drawn_from = _fitting_prior(Path(prior), model)
        return cls(pretrained, drawn_from)

    @property
    def info(self) -> DatasetInfo:
        """What the model was trained on."""
        return self._pretrained.info

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it encodes and decodes."""
        return self._pretrained.model.modalities

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels in `Scene.seg`, in their order."""
        return self._pretrained.model.class_names

    @property
    def image_size(self) -> int:
        """Height and width of every image, in and out."""
        return self._pretrained.model.image_size

    @torch.no_grad()
    def encode(
        self,
        rgb: Shaped[np.ndarray, "..."] | None = None,
        depth: Shaped[np.ndarray, "..."] | None = None,
        seg: Shaped[np.ndarray, "..."] | None = None,
    ) -> Latent:
        """The posterior mean given any of the modalities; private latents of the others are 0.

        Raises:
            InputError: If nothing is given, or an array has another type, size or value than it must.
        """
        batch, single = self._batch({"rgb": rgb, "depth": depth, "seg": seg})
        model = self._pretrained.model
        experts = model.encode(batch)
        posterior = model.posterior(experts, experts.present)
        std = torch.exp(0.5 * posterior.shared.logvar)
        private = {name: _array(gaussian.mean, single) for name, gaussian in posterior.private.items()}
        return Latent(_array(posterior.shared.mean, single), private, _array(std, single))

    def decode(self, latent: Latent, to: Sequence[str] | None = None) -> Scene:
        """The scene a latent stands for: RGB rounded, depth clamped to the training range, likeliest labels.

        Args:
            latent: Of `encode` or `sample_latent`, or made from such (interpolated, say). A private
                latent that is left out is 0.
            to: Modalities wanted; None: all.

        Raises:
            InputError: If the latent has another width than the model's, or a modality is unknown.
        """
        wanted = self._known(self.modalities if to is None else to)
        model = self._pretrained.model
        single = latent.shared.ndim == 1
        shared = _rows("shared", latent.shared, model.latent, single)
        if alien := sorted(latent.private.keys() - model.private.keys()):
            raise InputError(f"private latent {alien[0]}: this model has {_listed(model.private)}")
        private = {
            name: _rows(f"private {name}", latent.private[name], width, single)
            if name in latent.private
            else torch.zeros(len(shared), width)
            for name, width in model.private.items()
        }
        decoded = scenes(model, decode_in_parts(model, shared, private), self.info.depth)
        parts = {name: getattr(decoded, name) for name in wanted}
        return Scene(**{name: part[0] if single else part for name, part in parts.items()})

    def translate(
        self,
        rgb: Shaped[np.ndarray, "..."] | None = None,
        depth: Shaped[np.ndarray, "..."] | None = None,
        seg: Shaped[np.ndarray, "..."] | None = None,
        *,
        to: Sequence[str] | None = None,
    ) -> Scene:
        """Predict modalities from those given: `decode(encode(...), to)`.

        Raises:
            InputError: As `encode` and `decode` do.
        """
        return self.decode(self.encode(rgb, depth, seg), to)

    def sample_latent(self, count: int, seed: int) -> Latent:
        """Draw latents from the prior that `from_pretrained` was asked for.

        Raises:
            InputError: If count is not positive.
        """
        if count < 1:
            raise InputError(f"count is {count}; ask for at least one scene")
        shared, private = self._prior.sample(count, torch.Generator().manual_seed(seed))
        return Latent(shared.numpy(), {name: value.numpy() for name, value in private.items()})

    def sample(self, count: int, seed: int = 0) -> Scene:
        """New scenes, with a batch axis; the same seed gives the same scenes.

        Raises:
            InputError: If count is not positive.
        """
        return self.decode(self.sample_latent(count, seed))

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        names = (names,) if isinstance(names, str) else names
        if alien := [name for name in names if name not in self.modalities]:
            raise InputError(f"modality {alien[0]!r}: this model has {_listed(self.modalities)}")
        return names

    def _batch(self, given: Mapping[str, Shaped[np.ndarray, "..."] | None]) -> tuple[Batch, bool]:
        arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
        if not arrays:
            raise InputError(f"nothing to encode: give at least one of {_listed(self.modalities)}")
        self._known(tuple(arrays))
        single = {name: self._is_single(name, array) for name, array in arrays.items()}
        counts = {name: 1 if single[name] else len(array) for name, array in arrays.items()}
        if len(set(single.values())) > 1 or len(set(counts.values())) > 1 or 0 in counts.values():
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(
                f"{shapes}: modalities must show the same scenes, at least one, all with a batch axis or none"
            )
        count = next(iter(counts.values()))
        parts = {
            name: _modality(name, array[None] if single[name] else array, len(self.class_names))
            for name, array in arrays.items()
        }
        keys = tuple(str(row) for row in range(count))
        return Batch(parts, keys, torch.arange(count)), next(iter(single.values()))

    def _is_single(self, name: str, array: Shaped[np.ndarray, "..."]) -> bool:
        side = self.image_size
        shape = (side, side, 3) if name == "rgb" else (side, side)
        if array.shape == shape:
            return True
        if array.shape[1:] == shape:
            return False
        raise InputError(
            f"{name} has shape {array.shape}, but this model takes {side} x {side}: {_LAYOUT[name]}, or a "
            "batch of those; crop to a square and resize (depth and labels with nearest neighbour)"
        )


def _modality(name: str, array: Shaped[np.ndarray, "batch ..."], classes: int) -> ModalityBatch:
    """Check the kind and range of values; tensors and masks.

    Raises:
        InputError: If an array does not hold what its modality means.
    """
    present = torch.ones(len(array), dtype=torch.bool)
    if name == "depth":
        if array.dtype.kind != "f":
            raise InputError(f"depth is {array.dtype}, but must be float metres, NaN where there is none")
        valid = np.isfinite(array)
        if (array[valid] <= 0).any():
            raise InputError(f"depth holds {array[valid].min():g} m; mark pixels without depth as NaN, not 0")
        metres = np.where(valid, array, 0.0).astype(np.float32)[:, None]
        return ModalityBatch(torch.from_numpy(metres), present, torch.from_numpy(valid))
    if array.dtype != np.uint8:
        raise InputError(f"{name} is {array.dtype}, but must be uint8 ({_LAYOUT[name]})")
    if name == "rgb":
        value = (
            torch.from_numpy(array.astype(np.float32) / np.float32(255.0)).permute(0, 3, 1, 2).contiguous()
        )
        return ModalityBatch(value, present, torch.ones(array.shape[:3], dtype=torch.bool))
    labelled = array != IGNORE_INDEX
    if labelled.any() and array[labelled].max() >= classes:
        raise InputError(
            f"seg holds label {array[labelled].max()}, but the model knows {classes} classes; "
            "255 means no label"
        )
    return ModalityBatch(torch.from_numpy(array.astype(np.int64)), present, torch.from_numpy(labelled))


def _rows(name: str, value: Float[np.ndarray, "..."], width: int, single: bool) -> Float[Tensor, "batch _"]:
    rows = value[None] if single else value
    if rows.ndim != 2 or rows.shape[1] != width:
        expected = f"({width},)" if single else f"(batch, {width})"
        raise InputError(f"{name} latent has shape {value.shape}, but must have {expected}")
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))


def _array(value: Float[Tensor, "batch _"], single: bool) -> Float[np.ndarray, "..."]:
    array = value.numpy()
    return array[0] if single else array


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _locate(source: str | Path, revision: str | None) -> Path:
    """The directory that holds the model's files, fetched if need be.

    Raises:
        InputError: If there is none.
    """
    directory = Path(source)
    for candidate in (directory, directory / "train"):
        if (candidate / DESCRIPTION).is_file():
            return candidate
    if directory.exists() or not HUB_ID.fullmatch(str(source)):
        raise InputError(
            f"{source}: holds no {DESCRIPTION}; give the train directory of a finished run, or owner/name "
            "of a model on the Hugging Face Hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(str(source), revision=revision, allow_patterns=[WEIGHTS, DESCRIPTION])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{source}: is no directory here, and cannot be fetched from the Hugging Face Hub ({reason})"
        ) from None
    return Path(fetched)


def _adapt(model: SharedLatentAutoencoder, digest: str, directory: Path) -> LatentPrior:
    """Merge an adapter into a model; its re-fit prior.

    Raises:
        InputError: If it belongs to another model or its files are missing or damaged.
    """
    description, state = load_adapter(directory)
    if description.model_digest != digest:
        raise InputError(
            f"{directory}: was adapted from the model {description.model_digest[:12]}, not from this one "
            f"({digest[:12]}); load the model it was made from"
        )
    if state:
        attach_adapter(model.decoders, description.rank, seed=0)
        load_adapter_state(model.decoders, state)
        detach_adapter(model.decoders, merge=True)
    return load_prior(directory / PRIOR_FILE)


def _fitting_prior(path: Path, model: SharedLatentAutoencoder) -> LatentPrior:
    """A prior from a file.

    Raises:
        InputError: If it cannot be read or draws latents of another size.
    """
    prior = load_prior(path)
    shared, private = widths(prior)
    if shared != model.latent or private != model.private:
        raise InputError(
            f"{path}: draws {shared} shared and {private or 'no'} private latents, but this model has "
            f"{model.latent} and {model.private or 'none'}; name the prior that was fitted to it"
        )
    return prior
