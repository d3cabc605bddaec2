"""The shared-latent autoencoder: an expert and a decoder per modality, one posterior between them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.config.schema import Model, Objective
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.errors import InputError
from pipeline.models.fusion import PriorExperts, at_least_float32, product_of_experts
from pipeline.models.gaussian import Gaussian
from pipeline.models.networks import Decoder, Encoder

LOGVAR_RANGE = (-12.0, 8.0)
"""Log-variances of experts are clamped to this, so that one bad row cannot make a loss infinite."""

INITIAL_SCALE = {"rgb": 0.25, "depth": 1.0}
"""About the spread of the data itself, in the units of `Decoded`."""


@dataclass(frozen=True)
class Experts:
    """What each modality alone says.

    Attributes:
        mean: Of the shared latent, one expert per modality in the order of the model.
        logvar: Natural log of the variances.
        present: False where a row lacks the modality; such rows of mean and logvar mean nothing.
        private: q(private latent | modality) of each modality that has private latents.
    """

    mean: Float[Tensor, "modality batch latent"]
    logvar: Float[Tensor, "modality batch latent"]
    present: Bool[Tensor, "modality batch"]
    private: dict[str, Gaussian]


@dataclass(frozen=True)
class Posterior:
    """Over the shared latent and over each modality's private one (N(0, I) where it is not given)."""

    shared: Gaussian
    private: dict[str, Gaussian]


@dataclass(frozen=True)
class Decoded:
    """Locations of the likelihoods.

    Attributes:
        rgb: 0..1, not clamped.
        depth: Standardised: ((log) metres - mean) / std.
        seg: Logits over classes.
    """

    rgb: Float[Tensor, "batch 3 height width"] | None
    depth: Float[Tensor, "batch 1 height width"] | None
    seg: Float[Tensor, "batch class height width"] | None


@dataclass(frozen=True)
class Noise:
    """Draws from N(0, I) that turn a posterior into a latent."""

    shared: Float[Tensor, "batch latent"]
    private: dict[str, Float[Tensor, "batch _"]]


@dataclass(frozen=True)
class Output:
    """Everything the objective needs of one pass.

    Attributes:
        decoded: Of a draw from the posterior.
        posterior: Given what `given` marks.
        experts: Of all that is present.
        given: What the posterior saw.
    """

    decoded: Decoded
    posterior: Posterior
    experts: Experts
    given: Bool[Tensor, "modality batch"]


class SharedLatentAutoencoder(nn.Module):
    """Experts q(z | x_m), their product, and decoders p(x_m | z, w_m) with private latents w_m.

    Attributes:
        modalities: Those it has networks for, in the order rgb, depth, seg.
        latent: Dimensions of the shared latent.
        private: Dimensions of each private latent; only modalities that have one.
        class_names: Of the segmentation, in the order of the logits.
        image_size: Height and width in pixels.

    Source: Wu & Goodman 2018 (arXiv:1802.05335); private latents as in Palumbo et al. 2023 (MMVAE+).
    """

    def __init__(self, config: Model, objective: Objective, info: DatasetInfo) -> None:
        super().__init__()
        self.modalities = info.modalities
        self.latent = config.latent
        self.private: dict[str, int] = {
            name: config.private[name] for name in info.modalities if name in config.private
        }
        self.class_names = info.class_names
        self.image_size = info.image_size
        self.prior_experts: PriorExperts = config.prior_expert or (
            "none" if config.fusion == "mvtcae" else "full"
        )
        self.depth_space = objective.depth.space
        self.depth_mean, self.depth_std = _depth_standard(info.depth, objective.depth.space)
        self.scale_floor = {"rgb": objective.rgb.scale_floor, "depth": objective.depth.scale_floor}
        size, width, classes = info.image_size, config.width, len(info.class_names)
        inputs, outputs = {"rgb": 3, "depth": 2, "seg": classes}, {"rgb": 3, "depth": 1, "seg": classes}
        features = {name: config.latent + self.private.get(name, 0) for name in info.modalities}
        self.encoders = nn.ModuleDict({
            name: Encoder(inputs[name], size, 2 * features[name], width) for name in info.modalities
        })
        self.decoders = nn.ModuleDict({
            name: Decoder(features[name], outputs[name], size, width) for name in info.modalities
        })
        self.log_scales = nn.ParameterDict({
            name: nn.Parameter(torch.tensor(math.log(INITIAL_SCALE[name])))
            for name in info.modalities
            if name in INITIAL_SCALE
        })

    def forward(self, batch: Batch, given: Bool[Tensor, "modality batch"], noise: Noise) -> Output:
        """Encode, fuse what is given, draw, decode: the whole model once.

        Args:
            batch: Samples.
            given: What the posterior may see; what is not present is never seen.
            noise: For the draw; private latents that are not given are drawn from their prior with it.
        """
        experts = self.encode(batch)
        posterior = self.posterior(experts, given)
        private = {name: posterior.private[name].sample(noise.private[name]) for name in self.private}
        decoded = self.decode(posterior.shared.sample(noise.shared), private)
        return Output(decoded, posterior, experts, given)

    def encode(self, batch: Batch) -> Experts:
        """The expert of every modality; a modality without an entry in the batch is absent in every row."""
        shared, private, present = [], {}, []
        for name in self.modalities:
            gaussian, row_present = self._expert(name, batch)
            shared.append(Gaussian(gaussian.mean[:, : self.latent], gaussian.logvar[:, : self.latent]))
            present.append(row_present)
            if name in self.private:
                private[name] = Gaussian(gaussian.mean[:, self.latent :], gaussian.logvar[:, self.latent :])
        mean, logvar = torch.stack([g.mean for g in shared]), torch.stack([g.logvar for g in shared])
        return Experts(mean, logvar, torch.stack(present), private)

    def posterior(self, experts: Experts, given: Bool[Tensor, "modality batch"]) -> Posterior:
        """Fuse the experts that are both present and given."""
        seen = experts.present & given
        shared = product_of_experts(experts.mean, experts.logvar, seen, self.prior_experts)
        private = {
            name: _prior_unless(seen[self.modalities.index(name)], gaussian)
            for name, gaussian in experts.private.items()
        }
        return Posterior(shared, private)

    def decode(
        self, shared: Float[Tensor, "batch latent"], private: dict[str, Float[Tensor, "batch _"]]
    ) -> Decoded:
        """All modalities from a shared latent and every private one.

        Args:
            shared: The shared latent.
            private: One entry for each modality of `self.private`.
        """
        dtype = self._dtype
        images: dict[str, Tensor] = {}
        for name in self.modalities:
            latent = torch.cat([shared, private[name]], dim=1) if name in self.private else shared
            images[name] = at_least_float32(self.decoders[name](latent.to(dtype)))
        if "rgb" in images:
            images["rgb"] = images["rgb"] + 0.5
        return Decoded(images.get("rgb"), images.get("depth"), images.get("seg"))

    def scales(self) -> dict[str, Float[Tensor, ""]]:
        """Learned scale of each continuous likelihood, in the units of `Decoded`: floor + exp(parameter).

        The sum, unlike a clamp, keeps a gradient near the floor.
        """
        return {name: self.scale_floor[name] + log_scale.exp() for name, log_scale in self.log_scales.items()}

    def standardise(
        self, depth_m: Float[Tensor, "batch 1 height width"], valid: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """Metres to the units of `Decoded.depth`; 0, the mean, where invalid."""
        mask = valid[:, None]
        value = torch.where(mask, depth_m.to(self._dtype), 1.0)
        value = value.log() if self.depth_space == "log" else value
        return torch.where(mask, (value - self.depth_mean) / self.depth_std, 0.0)

    def to_metres(
        self, standardised: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The inverse of `standardise`."""
        value = standardised * self.depth_std + self.depth_mean
        return value.exp() if self.depth_space == "log" else value

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _expert(self, name: str, batch: Batch) -> tuple[Gaussian, Bool[Tensor, " batch"]]:
        if name not in batch.modalities:
            zero = torch.zeros(
                len(batch),
                self.latent + self.private.get(name, 0),
                dtype=self._dtype,
                device=batch.index.device,
            )
            return Gaussian(zero, zero), torch.zeros(len(batch), dtype=torch.bool, device=batch.index.device)
        modality = batch.modalities[name]
        feature = at_least_float32(self.encoders[name](self._network_input(name, modality)))
        mean, logvar = feature.chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE)), modality.present

    def _network_input(
        self, name: str, modality: ModalityBatch
    ) -> Float[Tensor, "batch channel height width"]:
        """Values centred on 0, and 0 wherever there is none: nothing else of such a pixel is ever seen."""
        mask = modality.valid & modality.present[:, None, None]
        match name:
            case "rgb":
                image = torch.where(mask[:, None], modality.value.to(self._dtype) - 0.5, 0.0)
            case "depth":
                image = torch.cat(
                    [self.standardise(modality.value, mask), mask[:, None].to(self._dtype)], dim=1
                )
            case _:
                image = self._one_hot(torch.where(mask, modality.value, len(self.class_names)))
        return image.contiguous(memory_format=torch.channels_last)

    def _one_hot(
        self, labels: Int[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch class height width"]:
        """Rows of an identity matrix, which beats comparing with every class; all zero for no label."""
        classes = len(self.class_names)
        rows = torch.eye(classes + 1, classes, dtype=self._dtype, device=labels.device)
        return F.embedding(labels, rows).permute(0, 3, 1, 2)


def build_autoencoder(
    config: Model, objective: Objective, info: DatasetInfo, seed: int
) -> SharedLatentAutoencoder:
    """A new model: weights depend on the seed and on nothing else; the global generator is left alone.

    Raises:
        InputError: If a private latent belongs to a modality the dataset lacks, or the dataset lacks
            what a modality needs (depth statistics, class names).
    """
    if alien := [name for name in config.private if name not in info.modalities]:
        raise InputError(
            f"model.private.{alien[0]}: the dataset has no {alien[0]} (it has {', '.join(info.modalities)}); "
            f"remove {alien[0]} from model.private"
        )
    if "seg" in info.modalities and not info.class_names:
        raise InputError(
            "the dataset has segmentation but names no classes; shard it again with data.source.classes set"
        )
    if "depth" in info.modalities and info.depth is None:
        raise InputError("the dataset has depth but no depth statistics; shard it again")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = SharedLatentAutoencoder(config, objective, info)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _depth_standard(statistics: DepthStatistics | None, space: str) -> tuple[float, float]:
    if statistics is None:
        return 0.0, 1.0
    mean, std = (
        (statistics.log_mean, statistics.log_std) if space == "log" else (statistics.mean_m, statistics.std_m)
    )
    return mean, std if std > 0.0 else 1.0


def _prior_unless(seen: Bool[Tensor, " batch"], gaussian: Gaussian) -> Gaussian:
    mask = seen[:, None]
    return Gaussian(torch.where(mask, gaussian.mean, 0.0), torch.where(mask, gaussian.logvar, 0.0))
