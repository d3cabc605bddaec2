"""The perceptual term, with a small network of VGG-16's layers made here."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import InputError
from pipeline.objectives.perceptual import BLOCKS, load_perceptual, perceptual_distance

CHANNELS = (4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8)
NUMBERS = [number for block in BLOCKS for number in block]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for number, (before, after) in zip(NUMBERS, pairwise((3, *CHANNELS)), strict=True):
        state[f"features.{number}.weight"] = 0.3 * torch.randn(after, before, 3, 3, generator=generator)
        state[f"features.{number}.bias"] = 0.5 + 0.1 * torch.randn(after, generator=generator)
    return state


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(weights() | {"classifier.0.weight": torch.ones(2, 2)}, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


def pictures(rows: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def everywhere(rows: int = 3) -> torch.Tensor:
    return torch.ones(rows, 32, 32, dtype=torch.bool)


def test_features_are_those_of_the_layers_in_order(file: Path) -> None:
    """The same network written out as torchvision numbers it: pooling at 4, 9, 16 and 23."""
    layers: list[nn.Module] = []
    state = weights()
    for number in range(30):
        if f"features.{number}.weight" in state:
            weight = state[f"features.{number}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, 1, 1)
            layer.load_state_dict({"weight": weight, "bias": state[f"features.{number}.bias"]})
            layers.append(layer)
        else:
            layers.append(nn.MaxPool2d(2) if number in {4, 9, 16, 23} else nn.ReLU())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hidden = (pictures() - mean[:, None, None]) / std[:, None, None]
    expected = []
    for number, layer in enumerate(layers):
        hidden = layer(hidden)
        if number in {3, 8, 15, 22, 29}:
            expected.append(hidden)
    for one, other in zip(load_perceptual(file)(pictures()), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_distance_is_the_angle_between_features(file: Path) -> None:
    """|a / |a| - b / |b||^2 = 2 - 2 cos, averaged over positions, times 1024 pixels, over five blocks."""
    network, one, other = load_perceptual(file), pictures(seed=1), pictures(seed=2)
    expected = torch.zeros(3)
    for a, b in zip(network(one), network(other), strict=True):
        lengths = (a.norm(dim=1) > 0).float() + (b.norm(dim=1) > 0).float()  # 0, not 1, of features all 0
        expected += 32 * 32 * (lengths - 2 * torch.cosine_similarity(a, b)).mean(dim=(1, 2))
    distance = perceptual_distance(network, one, other, everywhere())
    torch.testing.assert_close(distance, expected, rtol=1e-3, atol=0.1)


def test_equal_pictures_are_not_different_and_each_row_stands_alone(file: Path) -> None:
    network, one, other = load_perceptual(file), pictures(seed=1), pictures(seed=2)
    assert perceptual_distance(network, one, one, everywhere()).tolist() == [0.0, 0.0, 0.0]
    whole = perceptual_distance(network, one, other, everywhere())
    torch.testing.assert_close(perceptual_distance(network, one[1:2], other[1:2], everywhere(1)), whole[1:2])


def test_descending_it_brings_a_picture_nearer(file: Path) -> None:
    network, target = load_perceptual(file), pictures(1)
    picture = torch.full_like(target, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.05)
    costs = []
    for _ in range(15):
        optimizer.zero_grad()
        cost = perceptual_distance(network, picture, target, everywhere(1)).sum()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.7 * costs[0]
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("filler", [math.nan, math.inf])
def test_what_is_not_valid_is_never_seen(file: Path, filler: float) -> None:
    network = load_perceptual(file)
    valid = everywhere()
    valid[0], valid[1, :16] = False, False
    value = torch.where(valid[:, None], pictures(seed=2), filler)
    location = pictures(seed=1).requires_grad_()
    distance = perceptual_distance(network, location, value, valid)
    (gradient,) = torch.autograd.grad(distance.sum(), location)
    assert distance[0].item() == 0.0
    assert distance.isfinite().all()
    assert not gradient[0].any()
    assert not gradient[1, :, :16].any()
    assert gradient[1, :, 16:].abs().sum() > 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objective\.rgb.perceptual.network: .*vgg.safetensors: .*remove"):
        load_perceptual(tmp_path / "vgg.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vgg.safetensors").write_bytes(b"PK not weights at all")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_perceptual(tmp_path / "vgg.safetensors")
    with pytest.raises(InputError, match=r"objective\.rgb\.perceptual\.network: .*no such file"):
        load_perceptual(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.28.bias": None}, "features.28.bias is missing"),
        ({"features.3.weight": torch.ones(2)}, "features.3.weight is not in it"),
        ({"features.5.weight": torch.ones(6, 4, 1, 1)}, r"features.5 is of shape \(6, 4, 1, 1\)"),
        ({"features.0.weight": torch.ones(4, 1, 3, 3)}, "features.0 takes 1 channels"),
        ({"features.7.weight": torch.ones(6, 9, 3, 3)}, "features.5 gives 6 channels, features.7 takes 9"),
        ({"features.7.bias": torch.full((6,), math.nan)}, "a weight is not finite"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_reason(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {name: tensor for name, tensor in (weights() | change).items() if tensor is not None}
    save_file(state, tmp_path / "vgg.safetensors")
    with pytest.raises(InputError, match=message):
        load_perceptual(tmp_path / "vgg.safetensors")
