"""How different two RGB pictures look: a distance between features of a frozen network from a local file.

The network is VGG-16's convolutions. The file is what `safetensors.torch.save_file` makes of the state of
`torchvision.models.vgg16`, or of any network of the same layers, whatever their numbers of channels; the
classifier may be in it or not. Nothing in the file is executed.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.fusion import at_least_float32

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the convolutions in VGG-16's `features`; a maximum over 2 x 2 pixels stands between blocks."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the photographs that such networks are trained on, for RGB in 0..1."""

SMALLEST_IMAGE = 2 ** (len(BLOCKS) - 1)
_LEAST = 1e-10


class PerceptualNetwork(nn.Module):
    """VGG-16's features after the last convolution of each block; frozen.

    Source: Simonyan & Zisserman 2015 (arXiv:1409.1556), configuration D.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for number in (number for block in BLOCKS for number in block):
            weight = weights[f"features.{number}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, 1, 1)
            layer.load_state_dict({"weight": weight, "bias": weights[f"features.{number}.bias"]})
            self.convolutions[str(number)] = layer
        self.requires_grad_(False)
        self.eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, rgb: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Features of each block, outermost first, of pictures in 0..1."""
        mean, std = (rgb.new_tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
        hidden = (rgb - mean) / std
        features: list[Tensor] = []
        for block in BLOCKS:
            hidden = F.max_pool2d(hidden, 2) if features else hidden
            for number in block:
                hidden = F.relu(self.convolutions[str(number)](hidden))
            features.append(hidden)
        return features


def load_perceptual(path: Path) -> PerceptualNetwork:
    """The network in a file, in float32.

    Raises:
        InputError: If the file is missing or does not hold such a network.
    """
    field = "objective.rgb.perceptual.network"
    try:
        weights = load_file(path)
    except OSError as error:
        raise InputError(
            f"{field}: {path}: {error.strerror or 'no such file'}; give the weights of VGG-16's convolutions "
            "as a safetensors file, or remove objective.rgb.perceptual"
        ) from None
    except SafetensorError as error:
        raise InputError(f"{field}: {path}: not a safetensors file ({error})") from None
    if mistake := _mistake(weights):
        raise InputError(
            f"{field}: {path}: not the convolutions of VGG-16: {mistake}; save the state of "
            "torchvision.models.vgg16 with safetensors.torch.save_file"
        )
    return PerceptualNetwork({name: tensor.float() for name, tensor in weights.items()})


def perceptual_distance(
    network: PerceptualNetwork,
    location: Float[Tensor, "batch 3 height width"],
    value: Float[Tensor, "batch 3 height width"],
    valid: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Squared distance between features of unit length, per pixel, summed over the pixels of a row.

    Of each block's features: the mean over positions of |a / |a| - b / |b||^2, which is between 0 and 2;
    these are added over the five blocks and multiplied by the number of valid pixels, so that it
    stands to an NLL in the same proportion at every image size. 0 for equal pictures.

    Args:
        network: Frozen; only the gradient at `location` is of use.
        location: Decoded RGB in 0..1.
        value: The picture; like `location` it counts as grey where it is not valid.
        valid: Where there is a value; a row with none costs an exact 0 whose graph is intact.

    Source: Johnson, Alahi & Fei-Fei 2016 (arXiv:1603.08155), perceptual losses; Zhang et al. 2018
        (arXiv:1801.03924), their distance with all channels weighted 1.
    """
    mask = valid[:, None]
    found = network(torch.where(mask, at_least_float32(location), 0.5))
    with torch.no_grad():
        wanted = network(torch.where(mask, at_least_float32(value), 0.5))
    pixels = valid.flatten(1).sum(dim=1)
    distance = torch.stack([
        (_unit(one) - _unit(other)).square().sum(dim=1).mean(dim=(1, 2))
        for one, other in zip(found, wanted, strict=True)
    ]).sum(dim=0)
    return torch.where(pixels > 0, distance * pixels, 0.0)


def _unit(features: Float[Tensor, "batch channel height width"]) -> Tensor:
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + _LEAST)


def _mistake(weights: Mapping[str, Tensor]) -> str | None:
    """What is wrong with weights; None if nothing is."""
    numbers = [number for block in BLOCKS for number in block]
    names = [f"features.{number}.{part}" for number in numbers for part in ("weight", "bias")]
    if missing := [name for name in names if name not in weights]:
        return f"{missing[0]} is missing"
    if alien := [name for name in weights if name.startswith("features.") and name not in names]:
        return f"{alien[0]} is not in it"
    for number in numbers:
        weight, bias = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
        if weight.ndim != 4 or weight.shape[2:] != (3, 3) or bias.shape != weight.shape[:1]:
            return f"features.{number} is of shape {tuple(weight.shape)}, bias {tuple(bias.shape)}"
    shapes = [(number, weights[f"features.{number}.weight"].shape) for number in numbers]
    if shapes[0][1][1] != 3:
        return f"features.0 takes {shapes[0][1][1]} channels, not the 3 of RGB"
    for (before, one), (after, two) in pairwise(shapes):
        if one[0] != two[1]:
            return f"features.{before} gives {one[0]} channels, features.{after} takes {two[1]}"
    if any(not math.isfinite(weight.float().sum().item()) for weight in weights.values()):
        return "a weight is not finite"
    return None
