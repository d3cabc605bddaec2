"""The shared-latent autoencoder: an expert and a decoder per modality, one posterior between them."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.system import posterior_kind
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo
from pipeline.errors import InputError
from pipeline.models.code_prior import code_prior, codes
from pipeline.models.fusion import PriorExperts, at_least_float32
from pipeline.models.gaussian import Gaussian
from pipeline.models.implicit import ImplicitPosterior
from pipeline.models.inversion import inverted_posterior
from pipeline.models.joint import JointEncoder
from pipeline.models.networks import build_decoders, build_encoders
from pipeline.models.posterior import (
    LOGVAR_RANGE,
    POINT_LOGVAR,
    fuse_experts,
    point,
    prior_unless,
    standard_posterior,
)
from pipeline.models.units import units_of
from pipeline.models.variables import Decoded, Experts, Noise, Output, Posterior

NOTHING: Mapping[str, Tensor] = MappingProxyType({})

INITIAL_SCALE = {"rgb": 0.25, "depth": 1.0}
"""About the spread of the data itself, in the units of `Decoded`."""


class SharedLatentAutoencoder(nn.Module):
    """Experts q(z | x_m), their fusion, and decoders p(x_m | z, w_m) with private latents w_m.

    Attributes:
        modalities: Those it has networks for, in the order rgb, depth, seg.
        latent: Dimensions of the shared latent; a map is flattened everywhere outside the networks.
        private: Dimensions of each private latent; only modalities that have one.
        class_names: Of the segmentation, in the order of the logits.
        image_size: Height and width in pixels.
        units: What networks work in.
        fusion: How experts become a posterior.
        posterior_kind: Gaussian, point, implicit, or none where there are no encoders.
        held_to_prior: Whether training holds codes to N(0, I).

    Source: Wu & Goodman 2018 (arXiv:1802.05335); private latents as in Palumbo et al. 2023 (MMVAE+).
    """

    def __init__(self, config: Model, objective: Objective, info: DatasetInfo) -> None:
        super().__init__()
        self.modalities = info.modalities
        self.latent = config.latent_size
        self.private: dict[str, int] = {
            name: config.private[name] for name in info.modalities if name in config.private
        }
        self.class_names = info.class_names
        self.image_size = info.image_size
        self.fusion = config.fusion
        self.posterior_kind = posterior_kind(config, objective)
        self.held_to_prior = objective.regulariser.kind != "none" or self.posterior_kind == "none"
        self.code_prior = code_prior(objective)
        self.prior_experts: PriorExperts = config.prior_expert or (
            "none" if config.fusion == "mvtcae" else "full"
        )
        self.units = units_of(info, objective.depth.space)
        self.scale_floor = {"rgb": objective.rgb.scale_floor, "depth": objective.depth.scale_floor}
        with_encoders = self.posterior_kind != "none"
        inputs = self.input_channels if with_encoders else {}
        self.encoders = build_encoders(config, inputs, self.private, self.image_size)
        outputs = {name: self.units.decoded_channels(name) for name in self.modalities}
        self.decoders = build_decoders(config, outputs, self.private, self.image_size)
        self.log_scales = nn.ParameterDict({
            name: nn.Parameter(torch.tensor(math.log(INITIAL_SCALE[name])))
            for name in info.modalities
            if name in INITIAL_SCALE
        })
        if not with_encoders:
            self.log_scales.requires_grad_(False)  # no likelihood trains them
        self.rgb_is_share = objective.rgb.density == "bce"
        if self.rgb_is_share and "rgb" in self.log_scales:
            self.log_scales["rgb"].requires_grad_(False)
        self.joint = (
            JointEncoder(len(self.modalities), 2 * self.latent, config.joint_pool)
            if with_encoders and self.fusion == "joint"
            else None
        )
        self.implicit = (
            ImplicitPosterior(2 * self.latent, self.latent) if self.posterior_kind == "implicit" else None
        )
        auxiliary = self.private if self.fusion == "mmvaeplus" else {}
        self.log_auxiliary = nn.ParameterDict({n: nn.Parameter(torch.zeros(w)) for n, w in auxiliary.items()})

    def forward(
        self, batch: Batch, given: Bool[Tensor, "modality rows"], noise: Noise, prior: Noise | None = None
    ) -> Output:
        """Encode, fuse what is given, draw, decode: the whole model once.

        Args:
            batch: Samples.
            given: What the posterior of each row may see; what is not present is never seen. A multiple of
                the batch's rows: views of them, block by block.
            noise: For the draw of every row; private latents that are not given are drawn from their
                prior with it.
            prior: Latents from N(0, I) to decode as well.
        """
        experts = self.encode(batch.inputs(), noise.dropped)
        generated = None if prior is None else self.decode(prior.shared, prior.private, prior.dropped)
        posterior = self.posterior(experts.repeated(given.shape[1] // len(batch)), given)
        shared, private = self.draw(posterior, noise)
        decoded = None if self.posterior_kind == "none" else self.decode(shared, private, noise.dropped)
        return Output(decoded, posterior, experts, given, shared, private, generated)

    def encode(self, batch: Batch, dropped: Mapping[str, Tensor] = NOTHING) -> Experts:
        """The expert of every modality; a modality without an entry in the batch is absent in every row.

        Args:
            batch: Samples.
            dropped: As in `Noise`; needed in training where the config has dropout.
        """
        features, private, present = [], {}, []
        for name in self.modalities:
            present.append(self._present(name, batch))
            if self.posterior_kind == "none":
                features.append(torch.zeros(len(batch), 0, dtype=self._dtype, device=batch.index.device))
                continue
            mean, logvar = self._moments(name, batch, dropped.get(f"encode/{name}"))
            features.append(torch.cat([mean[:, : self.latent], logvar[:, : self.latent]], dim=1))
            if name in self.private:
                private[name] = self._density(mean[:, self.latent :], logvar[:, self.latent :])
        sample = batch if self.posterior_kind == "none" else None
        return Experts(torch.stack(features), torch.stack(present), private, sample)

    def posterior(self, experts: Experts, given: Bool[Tensor, "modality rows"]) -> Posterior:
        """Fuse the experts that are both present and given."""
        seen = experts.present & given
        if self.posterior_kind == "none":
            if self.training:
                return standard_posterior(seen.shape[1], self.latent, self.private, next(self.parameters()))
            rows = dict(zip(self.modalities, seen, strict=True))
            return inverted_posterior(self.decode, self.units, experts, rows, self.latent, self.private)
        shared, feature = self._fused(experts, seen)
        private = {
            name: self._private_posterior(name, gaussian, seen[self.modalities.index(name)])
            for name, gaussian in experts.private.items()
        }
        return Posterior(shared, private, feature)

    def draw(self, posterior: Posterior, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
        """A draw of the shared latent and of every private one."""
        private = {name: q.sample(noise.private[name]) for name, q in posterior.private.items()}
        if self.implicit is None or posterior.feature is None:
            return posterior.shared.sample(noise.shared), private
        drawn = self.implicit.sample(posterior.feature, noise.shared)
        # An unseen row's moments are exactly those of the prior, which no network's are.
        unseen = ((posterior.shared.mean == 0.0) & (posterior.shared.logvar == 0.0)).all(dim=1)[:, None]
        return torch.where(unseen, noise.shared[:, : self.latent].to(drawn.dtype), drawn), private

    @property
    def input_channels(self) -> dict[str, int]:
        """Channels of `network_input` of each modality."""
        return {name: self.units.channels(name) for name in self.modalities}

    @property
    def noise_size(self) -> int:
        """Numbers from N(0, I) that a draw of the shared latent takes."""
        return self.latent if self.implicit is None else self.implicit.noise_size

    def decode(
        self,
        shared: Float[Tensor, "batch latent"],
        private: Mapping[str, Float[Tensor, "batch _"]],
        dropped: Mapping[str, Tensor] = NOTHING,
    ) -> Decoded:
        """All modalities from a shared latent and every private one.

        Args:
            shared: The shared latent.
            private: One entry for each modality of `self.private`.
            dropped: As in `Noise`; needed in training where the config has dropout.
        """
        dtype = self._dtype
        images: dict[str, Tensor] = {}
        for name in self.modalities:
            latent = torch.cat([shared, private[name]], dim=1) if name in self.private else shared
            images[name] = at_least_float32(
                self.decoders[name](latent.to(dtype), dropped.get(f"decode/{name}"))
            )
        if "rgb" in images:
            images["rgb"] = images["rgb"].sigmoid() if self.rgb_is_share else images["rgb"] + 0.5
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
        return self.units.standardise(depth_m.to(self._dtype), valid)

    def network_input(
        self, name: str, modality: ModalityBatch
    ) -> Float[Tensor, "batch channel height width"]:
        """What the encoder of a modality sees; 0 wherever there is no value."""
        return self.units.network_input(name, modality, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _fused(
        self, experts: Experts, seen: Bool[Tensor, "modality rows"]
    ) -> tuple[Gaussian, Float[Tensor, "rows feature"] | None]:
        """The posterior of the shared latent, and under an implicit one what it is sampled from."""
        if self.joint is None:
            points = self.posterior_kind == "deterministic"
            fused = fuse_experts(self.fusion, experts, seen, self.prior_experts, points=points)
            return Gaussian(codes(*self.code_prior, fused.mean), fused.logvar), None
        feature, known = self.joint(experts.feature, seen), seen.any(dim=0)
        if self.implicit is not None:
            return prior_unless(known, self.implicit.moments(feature)), feature
        mean, logvar = feature.chunk(2, dim=1)
        return prior_unless(known, self._density(codes(*self.code_prior, mean), logvar)), None

    def _density(self, mean: Float[Tensor, "batch _"], logvar: Float[Tensor, "batch _"]) -> Gaussian:
        """The Gaussian of a network's outputs; a point under a deterministic posterior."""
        if self.posterior_kind == "deterministic":
            return point(mean)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))

    def _private_posterior(self, name: str, gaussian: Gaussian, seen: Bool[Tensor, " rows"]) -> Gaussian:
        """q(w | x_m) where x_m is seen, else what w is drawn from without it.

        That is its prior; in the training of MMVAE+ an auxiliary one of learned scale; and 0 where
        training holds codes to nothing.
        """
        unseen = torch.zeros_like(gaussian.mean)
        logvar = unseen if self.held_to_prior else torch.full_like(unseen, POINT_LOGVAR)
        if self.training and name in self.log_auxiliary:
            logvar = (2.0 * self.log_auxiliary[name]).expand_as(unseen)
        mask = seen[:, None]
        return Gaussian(torch.where(mask, gaussian.mean, unseen), torch.where(mask, gaussian.logvar, logvar))

    def _present(self, name: str, batch: Batch) -> Bool[Tensor, " batch"]:
        if name in batch.modalities:
            return batch.modalities[name].present
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.index.device)

    def _moments(
        self, name: str, batch: Batch, dropped: Tensor | None
    ) -> tuple[Float[Tensor, "batch _"], Float[Tensor, "batch _"]]:
        """Means and log-variances, shared then private; zeros for a modality without an entry."""
        if name not in batch.modalities:
            width = self.latent + self.private.get(name, 0)
            zero = torch.zeros(len(batch), width, dtype=self._dtype, device=batch.index.device)
            return zero, zero
        image = self.network_input(name, batch.modalities[name])
        feature = at_least_float32(self.encoders[name](image, dropped))
        mean, logvar = feature.chunk(2, dim=1)
        return mean, logvar if self.fusion == "joint" else logvar.clamp(*LOGVAR_RANGE)


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
