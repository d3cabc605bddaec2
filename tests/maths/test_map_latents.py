"""Latents that are maps: every position belongs to one place of the image, in the order promised."""

import pytest
import torch

from pipeline.config.model import Model
from pipeline.errors import InputError
from pipeline.models.layers import MapHead, MapStem
from pipeline.models.networks import build_decoder, build_encoder

NETWORKS = ("patch", "residual", "plain")


def model(network: str, latent: tuple[int, int, int], norm: str = "none") -> Model:
    return Model(network=network, width=8, latent=latent, private={}, norm=norm)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("side", "size"), [(4, 32), (8, 32), (8, 64), (16, 64), (16, 128)])
@pytest.mark.parametrize("private", [0, 3])
def test_maps_of_every_size_fit(network: str, side: int, size: int, private: int) -> None:
    config = model(network, (2, side, side))
    encoder = build_encoder(config, 3, size, 2 * side**2, private, statistics=2)
    decoder = build_decoder(config, (2, side, side), private, 4, size)
    features = encoder(torch.rand(2, 3, size, size))
    assert features.shape == (2, 2 * (2 * side**2 + private))
    latent = features.chunk(2, dim=1)[0]
    decoded = decoder(latent)
    assert decoded.shape == (2, 4, size, size)
    torch.testing.assert_close(decoder(latent[1:]), decoded[1:])


def test_statistics_channels_rows_columns_then_the_vector() -> None:
    """The map of channel c has its own bias, so that each feature says which it is."""
    encoder = build_encoder(model("patch", (2, 4, 4)), 3, 32, 2 * 16, 3, statistics=2)
    assert isinstance(encoder.head, MapHead)
    assert encoder.head.vector is not None
    with torch.no_grad():
        encoder.head.map.weight.zero_()
        encoder.head.map.bias.copy_(torch.tensor([1.0, 2.0, -1.0, -2.0]))
        encoder.head.vector.weight.zero_()
        encoder.head.vector.bias.copy_(torch.tensor([10.0, 11.0, 12.0, -10.0, -11.0, -12.0]))
    mean, logvar = encoder(torch.rand(1, 3, 32, 32))[0].chunk(2)
    assert mean.tolist() == [1] * 16 + [2] * 16 + [10, 11, 12]
    assert logvar.tolist() == [-1] * 16 + [-2] * 16 + [-10, -11, -12]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_corner_of_the_image_moves_its_corner_of_the_latent_only(network: str) -> None:
    encoder = build_encoder(model(network, (2, 16, 16)), 3, 128, 2 * 256, 0)
    image = torch.rand(1, 3, 128, 128)
    changed = image.clone()
    changed[:, :, :8, 120:] = 0.0
    moved = (encoder(image) != encoder(changed)).view(2, 16, 16).any(dim=0)
    assert moved[0, 15]
    assert not moved[8:].any()
    assert not moved[:, :8].any()


@pytest.mark.parametrize("network", ["residual", "plain"])
def test_a_position_of_the_latent_paints_its_place(network: str) -> None:
    """Where the map's mean, which acts on all of the image, is kept, the rest of the image stays."""
    decoder = build_decoder(model(network, (2, 16, 16)), (2, 16, 16), 3, 3, 128)
    latent = torch.randn(1, 2 * 256 + 3, dtype=torch.float64)
    decoder.double()
    changed = latent.clone()
    maps = changed[:, : 2 * 256].view(1, 2, 16, 16)
    maps[0, :, 15, 0] += 1.0
    maps[0, :, 15, 1] -= 1.0
    moved = (decoder(latent) - decoder(changed)).abs().amax(dim=(0, 1)) > 1e-9
    assert moved[124:, :4].any()
    assert not moved[:48].any()
    assert not moved[:, 80:].any()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_private_vector_reaches_the_whole_image(network: str) -> None:
    decoder = build_decoder(model(network, (2, 8, 8)), (2, 8, 8), 3, 3, 64)
    latent = torch.zeros(1, 128 + 3)
    changed = latent.clone()
    changed[:, 128:] = 1.0
    assert (decoder(latent) != decoder(changed)).float().mean() > 0.95


def test_a_stem_takes_channels_rows_and_columns_apart_as_they_were_flattened() -> None:
    stem = MapStem((2, 4, 4), 0, 2)
    with torch.no_grad():
        stem.map.weight.zero_()
        stem.map.weight[0, 0, 1, 1] = stem.map.weight[1, 1, 1, 1] = 1.0
        stem.map.bias.zero_()
    latent = torch.arange(32.0)[None]
    assert torch.equal(stem(latent), latent.view(1, 2, 4, 4))
    assert torch.equal(stem.whole(latent), torch.tensor([[7.5, 23.5]]))


@pytest.mark.parametrize(
    ("latent", "nearest"),
    [
        ((4, 7, 8), r"\[4, 8, 8\]"),
        ((4, 32, 32), r"\[4, 16, 16\]"),
        ((2, 2, 2), r"\[2, 4, 4\]"),
        ((4, 16, 4), r"\[4, 8, 8\]"),
    ],
)
def test_a_map_no_network_reaches_is_refused_with_the_nearest(
    latent: tuple[int, int, int], nearest: str
) -> None:
    config = Model(latent=latent, width=8)
    with pytest.raises(InputError, match=f"the nearest valid: {nearest}"):
        build_encoder(config, 3, 64, config.latent_size, 0)
    with pytest.raises(InputError, match=f"the nearest valid: {nearest}"):
        build_decoder(config, latent, 0, 3, 64)
    with pytest.raises(ValueError, match="63 features cannot be spread over 8 x 8"):
        build_encoder(model("patch", (4, 8, 8)), 3, 64, 63, 0)
