"""A trained model in Python: numpy arrays in, numpy arrays out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8

from pipeline.api.arrays import as_array, as_modality, as_rows, is_single
from pipeline.api.files import adapt, fitting_prior, locate
from pipeline.data.batch import Batch
from pipeline.data.modality import DatasetInfo
from pipeline.errors import InputError
from pipeline.models.pretrained import Pretrained, load_pretrained, model_digest
from pipeline.models.prior import LatentPrior, assumed_prior
from pipeline.models.scene import decode_in_parts, scenes


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
        directory = locate(source, revision)
        pretrained = load_pretrained(directory)
        model = pretrained.model
        drawn_from = assumed_prior(*model.code_prior, model.latent, model.private)
        if adapter is not None:
            drawn_from = adapt(model, model_digest(directory), Path(adapter))
        if prior is not None:
            drawn_from = fitting_prior(Path(prior), model)
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
        private = {name: as_array(gaussian.mean, single) for name, gaussian in posterior.private.items()}
        return Latent(as_array(posterior.shared.mean, single), private, as_array(std, single))

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
        shared = as_rows("shared", latent.shared, model.latent, single)
        if alien := sorted(latent.private.keys() - model.private.keys()):
            raise InputError(f"private latent {alien[0]}: this model has {_listed(model.private)}")
        private = {
            name: as_rows(f"private {name}", latent.private[name], width, single)
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
        single = {name: is_single(name, array, self.image_size) for name, array in arrays.items()}
        counts = {name: 1 if single[name] else len(array) for name, array in arrays.items()}
        if len(set(single.values())) > 1 or len(set(counts.values())) > 1 or 0 in counts.values():
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(
                f"{shapes}: modalities must show the same scenes, at least one, all with a batch axis or none"
            )
        count = next(iter(counts.values()))
        parts = {
            name: as_modality(name, array[None] if single[name] else array, len(self.class_names))
            for name, array in arrays.items()
        }
        keys = tuple(str(row) for row in range(count))
        return Batch(parts, keys, torch.arange(count)), next(iter(single.values()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
