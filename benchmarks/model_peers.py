"""multivae 1.0.3 and pythae 0.1.2 as they are, around given networks; train.py and quality.py use them.

What they take and give here: RGB minus 0.5, standardised depth, and labels one-hot with classes *last*,
because multivae's categorical decoder normalises over the last axis, whatever that is. The networks have
channels first, as everybody's; the wrappers below turn labels round.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.data.modality import DatasetInfo

INSTALL = "benchmarks/model_peers.txt says how to install it"
STOOD_IN = ("torchvision", "nltk")

Network = Callable[..., nn.Module]
"""Encoders: (channels, out_features); decoders: (in_features, channels)."""


def installed(name: str) -> bool:
    """Whether a peer can be imported; if so, what it imports without need is stood in for."""
    if not importlib.util.find_spec(name):
        return False
    if not any(isinstance(finder, _StandIns) for finder in sys.meta_path):
        sys.meta_path.append(_StandIns())  # the last to be asked: what is installed is found before
    logging.disable(logging.INFO)
    return True


def inputs(batch: Batch, info: DatasetInfo) -> dict[str, Tensor]:
    """A batch in which nothing is missing, as the peers take it.

    Raises:
        ValueError: If something is missing: the peers' masks are for whole modalities of a row.
    """
    data = {}
    for name, modality in batch.modalities.items():
        if not bool(modality.valid.all()):
            raise ValueError(f"{name} has pixels without a value, which the peers cannot leave out")
        match name:
            case "rgb":
                data[name] = modality.value - 0.5
            case "depth":
                assert info.depth is not None
                data[name] = (modality.value - info.depth.mean_m) / info.depth.std_m
            case _:
                data[name] = F.one_hot(modality.value, len(info.class_names)).float()
    return data


def multivae_model(
    kind: str, channels: Mapping[str, int], latent: int, scale: float, encoder: Network, decoder: Network
) -> nn.Module:
    """MoPoE or MVTCAE with its own defaults: RGB normal, depth Laplace of one scale, labels categorical.

    Args:
        kind: `MoPoE` or `MVTCAE`.
        channels: Of each modality, in the order its networks are made.
        latent: Dimensions.
        scale: Of the normal and the Laplace density.
        encoder: Makes a network that gives 2 x latent features.
        decoder: Makes a network from a latent.
    """
    from multivae import models

    settings: dict[str, Any] = {
        "n_modalities": len(channels),
        "latent_dim": latent,
        "decoders_dist": {name: _DENSITY[name] for name in channels},
        "decoder_dist_params": {name: {"scale": scale} for name in channels if name != "seg"},
    }
    config = getattr(models, f"{kind}Config")(**settings)
    encoders, decoders = {}, {}
    for name, count in channels.items():
        encoders[name], decoders[name] = _wrapped(name, encoder(count, 2 * latent), decoder(latent, count))
    model: nn.Module = getattr(models, kind)(config, encoders, decoders)
    return model


def multivae_loss(model: nn.Module, data: dict[str, Tensor]) -> Any:
    """What its trainer's update starts with."""
    from multivae.data import MultimodalBaseDataset

    return model(MultimodalBaseDataset(data=data))


def set_beta(model: nn.Module, beta: float) -> None:
    """Factor on the divergences from now on."""
    model.model_config.beta = beta  # type: ignore[union-attr]
    if hasattr(model, "beta"):
        model.beta = beta  # MVTCAE's copy  # type: ignore[assignment]


def multivae_decoded(model: nn.Module, data: dict[str, Tensor], given: Sequence[str]) -> dict[str, Tensor]:
    """Every modality decoded from the mean of the posterior of what is given; labels as logits, as ours.

    Its own `encode(return_mean=True)` gives MoPoE with all modalities another point, the average of the
    means of all subsets.
    """
    from multivae.data import MultimodalBaseDataset

    if hasattr(model, "inference"):
        subsets = model.inference(MultimodalBaseDataset(data=data))["subsets"]
        latent = subsets["_".join(sorted(given))][0]
    else:
        seen = MultimodalBaseDataset(data={name: data[name] for name in given})
        latent = model._inference(seen)["joint"][0]
    decoded = {name: decoder(latent).reconstruction for name, decoder in model.decoders.items()}
    return {n: value.permute(0, 3, 1, 2) if n == "seg" else value for n, value in decoded.items()}


def multivae_step(model: nn.Module, data: dict[str, Tensor]) -> Callable[[], None]:
    """One update as its trainer does it, with its default optimiser."""
    from multivae.trainers import BaseTrainer

    trainer = SimpleNamespace(optimizer=torch.optim.Adam(model.parameters(), lr=1e-4))

    def step() -> None:
        output = multivae_loss(model, data)
        BaseTrainer._optimizers_step(trainer, output)
        output.loss_sum.item()

    return step


def pythae_step(
    kind: str, image: Tensor, latent: int, encoder: nn.Module, decoder: nn.Module, layers: list[nn.Module]
) -> Callable[[], None]:
    """One update of `VAE`, `Adversarial_AE` or `VAEGAN` as its trainer does it, with its default optimiser.

    Args:
        kind: Which model.
        image: A batch of RGB.
        latent: Dimensions.
        encoder: Gives 2 x latent features.
        decoder: The mirror image.
        layers: Of VAE-GAN's discriminator; the last but one gives the features it compares.
    """
    from pythae import models, trainers

    wrapped = _wrapped("rgb", encoder, decoder)
    shape = tuple(image.shape[1:])
    match kind:
        case "VAE":
            model = models.VAE(models.VAEConfig(input_dim=shape, latent_dim=latent), *wrapped)
            players, trainer = {"optimizer": model}, trainers.BaseTrainer
        case "Adversarial_AE":
            settings = models.Adversarial_AE_Config(input_dim=shape, latent_dim=latent)
            model = models.Adversarial_AE(settings, *wrapped)
            autoencoder = nn.ModuleList([model.encoder, model.decoder])
            players = {"autoencoder_optimizer": autoencoder, "discriminator_optimizer": model.discriminator}
            trainer = trainers.AdversarialTrainer
        case _:
            settings = models.VAEGANConfig(
                input_dim=shape, latent_dim=latent, reconstruction_layer=len(layers) - 1
            )
            model = models.VAEGAN(settings, *wrapped, discriminator=_layered(layers))
            players = {f"{name}_optimizer": getattr(model, name) for name in _VAEGAN_PLAYERS}
            trainer = trainers.CoupledOptimizerAdversarialTrainer
    optimizers = {name: torch.optim.Adam(player.parameters(), lr=1e-4) for name, player in players.items()}
    state = SimpleNamespace(amp=False, scaler=None, **optimizers)

    def step() -> None:
        output = model({"data": image}, epoch=1, dataset_size=len(image), uses_ddp=False)
        trainer._optimizers_step(state, output)
        output.loss.item()

    return step


_DENSITY = {"rgb": "normal", "depth": "laplace", "seg": "categorical"}
_VAEGAN_PLAYERS = ("encoder", "decoder", "discriminator")


def _wrapped(name: str, encoder: nn.Module, decoder: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Networks in the classes that the peers insist on."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, value: Tensor) -> Any:
            image = value.permute(0, 3, 1, 2) if name == "seg" else value
            mean, logvar = self.network(image).chunk(2, dim=1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, latent: Tensor) -> Any:
            image = self.network(latent)
            return ModelOutput(reconstruction=image.permute(0, 2, 3, 1) if name == "seg" else image)

    return Encoder(), Decoder()


def _layered(layers: list[nn.Module]) -> nn.Module:
    """A discriminator whose layers can be asked for."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDiscriminator

    class Discriminator(BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.depth = nn.ModuleList(layers), len(layers)

        def forward(self, image: Tensor, output_layer_levels: Sequence[int] | None = None) -> Any:
            output = ModelOutput()
            last = max(output_layer_levels) if output_layer_levels else self.depth
            for number, layer in enumerate(self.layers[:last], 1):
                image = layer(image)
                if output_layer_levels and number in output_layer_levels:
                    output[f"embedding_layer_{number}"] = image
            if last == self.depth:
                output["embedding"] = image
            return output

    return Discriminator()


class _StandIn(types.ModuleType):
    """A module that has everything, as empty classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that multivae imports for its own datasets and pictures, which nobody needs here."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> Any:
        if fullname.partition(".")[0] in STOOD_IN:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass
