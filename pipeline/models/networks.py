"""The two networks a modality has: image to features, latents to image.

Every network is fully described by the config, the numbers of channels and the image size, draws no random
number when it runs, and, but for `norm: batch`, never mixes rows.
"""

from collections.abc import Mapping

from torch import nn

from pipeline.config.model import Model
from pipeline.errors import InputError
from pipeline.models.layers import Features, Latents
from pipeline.models.network_patch import PatchDecoder, PatchEncoder
from pipeline.models.network_plain import PlainDecoder, PlainEncoder
from pipeline.models.network_residual import ResidualDecoder, ResidualEncoder


def build_encoder(
    config: Model,
    channels: int,
    image_size: int,
    latent_features: int,
    vector_features: int,
    statistics: int = 1,
) -> nn.Module:
    """The network from one modality's image to features.

    Its forward is `(image: "batch channel height width", uniform: "batch innermost" | None = None) ->
    "batch feature"`. The features of a row are, for each statistic in turn, the `latent_features` and
    then the `vector_features`. With two statistics the first half of them therefore is the mean of
    everything and the second half the log-variance of everything, each being [shared, private]. With a
    latent map of [c, h, w] the `latent_features` are any number of channels at h x w, flattened in the
    order channel, height, width.

    `uniform`, numbers in [0, 1), is needed in training if `config.dropout` is not 0: one for each row and
    each of the `innermost` channels (an attribute of the network).

    Args:
        config: Which network, its width, norm and dropout; whether latents are maps, and of what size.
        channels: Of the image.
        image_size: Its height and width.
        latent_features: Per statistic, in the arrangement of the shared latent.
        vector_features: Per statistic, always a vector: a private latent's.
        statistics: Numbers per feature: 2 for a Gaussian, 1 for a point.

    Raises:
        InputError: If the network cannot have such images or latents.
        ValueError: If the features cannot be spread over the latent's map.
    """
    _refuse_sizes(config, image_size)
    side = None if isinstance(config.latent, int) else config.latent[1]
    if side is not None and latent_features % side**2:
        raise ValueError(f"{latent_features} features cannot be spread over {side} x {side}")
    features = Features(latent_features, vector_features, statistics, side)
    match config.network:
        case "patch":
            return PatchEncoder(channels, image_size, features, config.width, config.norm, config.dropout)
        case "residual":
            return ResidualEncoder(channels, image_size, features, config.width, config.norm, config.dropout)
        case "plain":
            return PlainEncoder(channels, image_size, features, config.width, config.norm, config.dropout)


def build_decoder(
    config: Model, shared: int | tuple[int, int, int], private: int, channels: int, image_size: int
) -> nn.Module:
    """The network from latents to one modality's image.

    Its forward is `(latent: "batch latent", uniform: "batch innermost" | None = None) -> "batch channel
    height width"`: `latent` is the shared latent (a map flattened in the order channel, height, width)
    and then the private one; `uniform` is as in `build_encoder`.

    Args:
        config: Which network, its width, norm and dropout.
        shared: Dimensions of the shared latent, or (channels, height, width) of a map.
        private: Dimensions of the private latent, 0 if there is none.
        channels: Of the image.
        image_size: Its height and width.

    Raises:
        InputError: If the network cannot have such images or latents.
    """
    _refuse_sizes(config, image_size)
    latents = Latents(shared, private)
    match config.network:
        case "patch":
            return PatchDecoder(latents, channels, image_size, config.width, config.norm, config.dropout)
        case "residual":
            return ResidualDecoder(latents, channels, image_size, config.width, config.norm, config.dropout)
        case "plain":
            return PlainDecoder(latents, channels, image_size, config.width, config.norm, config.dropout)


def build_encoders(
    config: Model, channels: Mapping[str, int], private: Mapping[str, int], image_size: int
) -> nn.ModuleDict:
    """An encoder for each modality that has channels: mean and log-variance, shared then private.

    Raises:
        InputError: If the network cannot have such images or latents.
    """
    return nn.ModuleDict({
        name: build_encoder(config, width, image_size, config.latent_size, private.get(name, 0), statistics=2)
        for name, width in channels.items()
    })


def build_decoders(
    config: Model, channels: Mapping[str, int], private: Mapping[str, int], image_size: int
) -> nn.ModuleDict:
    """A decoder for each modality that has channels, from the shared latent and its private one.

    Raises:
        InputError: If the network cannot have such images or latents.
    """
    return nn.ModuleDict({
        name: build_decoder(config, config.latent, private.get(name, 0), width, image_size)
        for name, width in channels.items()
    })


def refuse_batch_norm(config: Model, *, processes: int, passes: int) -> None:
    """Refuse statistics over a batch where there is no one batch.

    Args:
        config: Whose norm it is about.
        processes: That train together.
        passes: Of the same network in one update: 2 where reconstructions and draws from the prior are
            decoded apart.

    Raises:
        InputError: If `config.norm` is batch, and there are several of either.
    """
    if config.norm != "batch":
        return
    remedy = "choose model.norm: group, whose statistics are of one row"
    if processes > 1:
        raise InputError(
            f"model.norm: batch takes statistics of the rows of one process, so {processes} processes would "
            f"train another model than one; {remedy}, or train with --nproc 1"
        )
    if passes > 1:
        raise InputError(
            f"model.norm: batch takes statistics of one pass, and here a decoder runs {passes} times per "
            "update, on reconstructions and on draws from the prior, whose statistics differ: what it "
            f"learns would be normalised otherwise than what it is used for; {remedy}, or let the adversary "
            "see one kind of scene only (objective.adversary.fakes: reconstructions)"
        )


def _refuse_sizes(config: Model, image_size: int) -> None:
    if mistake := config.mistake_at(image_size):
        raise InputError(mistake)
