"""Every network fits every size, keeps rows apart, and is what its config says."""

import hashlib
import math

import pytest
import torch
from torch import nn

from pipeline.config.model import Model
from pipeline.errors import InputError
from pipeline.models.layers import Features, Latents, drop_features
from pipeline.models.network_patch import PatchDecoder, PatchEncoder
from pipeline.models.network_plain import plain_widths
from pipeline.models.network_residual import ResidualBlock
from pipeline.models.networks import build_decoder, build_encoder, refuse_batch_norm

NETWORKS = ("patch", "residual", "plain")


def model(network: str = "patch", **fields: object) -> Model:
    return Model(**{"network": network, "width": 8, "latent": 5, "private": {}, **fields})


def images(rows: int, size: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(rows, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_networks_fit_every_image_size_and_never_mix_rows(network: str, size: int) -> None:
    encoder = build_encoder(model(network), 3, size, 5, 2, statistics=2).double()
    decoder = build_decoder(model(network), 5, 2, 4, size).double()
    image, latent = images(2, size).double(), torch.randn(2, 7, dtype=torch.float64)
    features, decoded = encoder(image), decoder(latent)
    assert features.shape == (2, 14)
    assert decoded.shape == (2, 4, size, size)
    torch.testing.assert_close(encoder(image[1:]), features[1:])
    torch.testing.assert_close(decoder(latent[1:]), decoded[1:])


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_learns(network: str) -> None:
    encoder = build_encoder(model(network), 3, 32, 5, 2, statistics=2)
    decoder = build_decoder(model(network), 5, 2, 3, 32)
    for _ in range(2):  # what starts at zero passes nothing on in the first step
        for part in (encoder, decoder):
            part.zero_grad()
        decoded = decoder(encoder(images(4, 32))[:, :7])
        (decoded - images(4, 32)).square().sum().backward()
        with torch.no_grad():
            for parameter in [*encoder.parameters(), *decoder.parameters()]:
                parameter -= 1e-4 * parameter.grad
    for part, unused in ((encoder, "head"), (decoder, "none")):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any() or name.startswith(unused), name


def test_the_patch_network_is_bit_for_bit_what_it_was() -> None:
    """Weights drawn, their names and what they compute, as before there were other networks."""
    torch.manual_seed(3)
    encoder, decoder = PatchEncoder(3, 64, Features(96), 16), PatchDecoder(Latents(32, 16), 3, 64, 16)
    digest = hashlib.sha256()
    for part in (encoder, decoder):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest()[:16] == "6b11f3423f2f837f"
    state = [tensor.double() for part in (encoder, decoder) for tensor in part.state_dict().values()]
    assert sum(tensor.sum().item() for tensor in state) == pytest.approx(129.20559365464115, abs=1e-9)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        features = encoder.double()(torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64))
        decoded = decoder.double()(torch.randn(2, 48, generator=generator, dtype=torch.float64))
    assert features.square().sum().item() == pytest.approx(19.935217967358625, rel=1e-9)
    assert decoded.square().sum().item() == pytest.approx(968.067735656919, rel=1e-9)


def test_statistics_come_one_after_the_other_each_shared_then_private() -> None:
    """The bias of the last layer says which feature is which."""
    encoder = build_encoder(model(), 3, 32, 5, 2, statistics=2)
    assert isinstance(encoder.head, nn.Linear)
    with torch.no_grad():
        encoder.head.weight.zero_()
        encoder.head.bias.copy_(torch.arange(14.0))
    mean, logvar = encoder(images(1, 32))[0].chunk(2)
    assert mean.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert logvar.tolist() == [7, 8, 9, 10, 11, 12, 13]


def test_the_plain_network_is_that_of_the_field() -> None:
    assert plain_widths(64, 32) == [32, 64, 128, 256]
    assert plain_widths(128, 32) == [32, 64, 128, 256, 256]
    encoder = build_encoder(Model(network="plain", width=32, norm="none"), 3, 64, 32, 0, statistics=2)
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.shape[:2] for layer in convolutions] == [(32, 3), (64, 32), (128, 64), (256, 128)]
    assert all((layer.kernel_size, layer.stride) == ((4, 4), (2, 2)) for layer in convolutions)
    weights = 16 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + 32 + 64 + 128 + 256
    assert sum(p.numel() for p in encoder.parameters()) == weights + 4096 * 64 + 64


def test_a_residual_block_starts_as_the_identity_and_larger_images_have_more_of_them() -> None:
    hidden = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, "group", 3)(hidden, torch.randn(2, 3)), hidden)

    def depth(size: int) -> int:
        network = build_encoder(model("residual"), 3, size, 5, 0)
        return sum(isinstance(part, ResidualBlock) for part in network.modules())

    assert [depth(size) for size in (32, 64, 128, 256)] == [2, 3, 4, 5]


@pytest.mark.parametrize("network", NETWORKS)
def test_norms_are_of_the_kind_asked_for(network: str) -> None:
    def kinds(norm: str) -> set[type]:
        parts = [
            build_encoder(model(network, norm=norm), 3, 32, 5, 0),
            build_decoder(model(network, norm=norm), 5, 0, 3, 32),
        ]
        layers = (layer for part in parts for layer in part.modules())
        return {type(layer) for layer in layers if "Norm" in type(layer).__name__}

    assert kinds("group") == {nn.GroupNorm}
    assert kinds("batch") == {nn.BatchNorm2d}
    assert kinds("none") == set()


def test_the_way_an_input_is_laid_out_changes_nothing() -> None:
    for network in NETWORKS:
        encoder = build_encoder(model(network), 3, 32, 5, 0)
        image = images(2, 32)
        torch.testing.assert_close(
            encoder(image.contiguous(memory_format=torch.channels_last)), encoder(image)
        )


def test_dropped_channels_are_0_and_the_rest_keep_the_mean() -> None:
    hidden, uniform = torch.ones(2, 4, 3, 3), torch.tensor([[0.0, 0.2, 0.3, 0.9], [0.1, 0.7, 0.8, 0.29]])
    dropped = drop_features(hidden, 0.3, uniform, training=True)
    scale = 1 / 0.7
    expected = torch.tensor([[0, 0, scale, scale], [0, scale, scale, 0]])
    torch.testing.assert_close(dropped, expected[:, :, None, None].expand_as(hidden))
    many = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    kept = drop_features(torch.ones(4000, 4, 1, 1), 0.3, many, training=True)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("network", NETWORKS)
def test_dropout_is_decided_by_its_argument_alone(network: str) -> None:
    config = model(network, dropout=0.5)
    for part, given in (
        (build_encoder(config, 3, 32, 5, 0), images(2, 32)),
        (build_decoder(config, 5, 0, 3, 32), torch.randn(2, 5)),
    ):
        innermost = part.innermost
        assert isinstance(innermost, int)
        nothing, uniform = torch.ones(2, innermost) * 0.99, torch.rand(2, innermost)
        with pytest.raises(ValueError, match="dropout in training needs uniform numbers"):
            part(given)
        assert torch.equal(part(given, uniform), part(given, uniform))
        assert not torch.equal(part(given, uniform), part(given, nothing))
        one_row = torch.stack([uniform[0], nothing[1]])
        torch.testing.assert_close(part(given, one_row)[0], part(given, uniform)[0])
        torch.testing.assert_close(part(given, one_row)[1], part(given, nothing)[1])
        assert part.eval()(given).isfinite().all()


@pytest.mark.parametrize(
    ("size", "nearest"), [(48, "32 or 64"), (100, "64 or 128"), (16, "32"), (200, "128 or 256")]
)
def test_a_size_that_cannot_be_halved_is_refused_with_the_nearest(size: int, nearest: str) -> None:
    for build in (
        lambda: build_encoder(model(), 3, size, 5, 0),
        lambda: build_decoder(model(), 5, 0, 3, size),
    ):
        with pytest.raises(InputError, match=f"{size} px does not allow; the nearest valid: {nearest}$"):
            build()


def test_batch_norm_is_refused_where_it_cannot_be_right() -> None:
    config = model(norm="batch")
    refuse_batch_norm(config, processes=1, passes=1)
    refuse_batch_norm(model(norm="group"), processes=4, passes=2)
    with pytest.raises(
        InputError, match=r"4 processes would train another model than one; choose model\.norm"
    ):
        refuse_batch_norm(config, processes=4, passes=1)
    with pytest.raises(InputError, match="a decoder runs 2 times per update"):
        refuse_batch_norm(config, processes=1, passes=2)


@pytest.mark.parametrize("network", NETWORKS)
def test_only_batch_norm_mixes_rows(network: str) -> None:
    encoder = build_encoder(model(network, norm="batch"), 3, 32, 5, 0)
    image = images(4, 32)
    assert not torch.allclose(encoder(image)[:2], encoder(image[:2]))
    encoder.eval()
    torch.testing.assert_close(encoder(image)[:2], encoder(image[:2]))


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_stay_finite_in_bf16(network: str) -> None:
    encoder = build_encoder(model(network), 3, 32, 5, 0, statistics=2)
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(images(2, 32))
    high = encoder(images(2, 32))
    assert (low.float() - high).norm() < 0.05 * math.sqrt(high.numel())
