"""Low-rank adapters: a few parameters that bend a frozen decoder, stored apart from it.

Every convolution, transposed convolution and linear layer computes with `weight + up @ down` and
`bias + shift`. `up` and `shift` start at zero, so an attached adapter first changes nothing.

Source: Hu et al. 2021 (arXiv:2106.09685); a kernel is the matrix of its output channels
by everything it reads. Training biases as well: Ben Zaken et al. 2021 (arXiv:2106.10199).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.errors import InputError

Adaptable = nn.Conv2d | nn.ConvTranspose2d | nn.Linear

FORMAT = 1
WEIGHTS_FILE = "adapters.safetensors"
DESCRIPTION_FILE = "adapters.json"


class LowRank(nn.Module):
    """weight -> weight + up @ down, the product folded into the shape of the weight."""

    def __init__(self, layer: Adaptable, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.transposed = isinstance(layer, nn.ConvTranspose2d)
        shape = layer.weight.transpose(0, 1).shape if self.transposed else layer.weight.shape
        self.folded = torch.Size(shape)
        rows, columns = shape[0], shape[1:].numel()
        self.down = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def delta(self) -> Float[Tensor, "out ..."]:
        """What is added to the weight, output channels first."""
        return (self.up @ self.down).view(self.folded)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        delta = self.delta()
        return weight + (delta.transpose(0, 1) if self.transposed else delta)


class Shift(nn.Module):
    """bias -> bias + shift."""

    def __init__(self, bias: Float[Tensor, " out"]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Float[Tensor, " out"]) -> Float[Tensor, " out"]:
        """The adapted bias."""
        return bias + self.shift


@dataclass(frozen=True)
class AdapterDescription:
    """What `adapters.json` says.

    Attributes:
        rank: Rank of every layer's change.
        model_digest: SHA-256 of the `model.safetensors` it belongs to.
        support: Keys of the samples it was made from.
        format: Version of these files.
    """

    rank: int
    model_digest: str
    support: tuple[str, ...]
    format: int = FORMAT


def attach_adapter(root: nn.Module, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Give every layer under `root` a low-rank change of its weight and a shift of its bias.

    All other parameters under `root` are frozen. The output is at first unchanged, bit for bit.

    Args:
        root: A decoder, or a module of several.
        rank: Rank of each change; a layer with fewer outputs or inputs has at most their number.
        seed: Decides the starting values of `down`.

    Returns:
        The parameters to train, by name.

    Raises:
        ValueError: If there is no layer to adapt, a layer has groups, or one is adapted already.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = list(_layers(root))
    if not layers:
        raise ValueError(f"{type(root).__name__} has no convolution or linear layer to adapt")
    for name, layer in layers:
        if parametrize.is_parametrized(layer):
            raise ValueError(f"layer {name} is adapted already; detach_adapter first")
        if getattr(layer, "groups", 1) != 1:
            raise ValueError(f"layer {name} has groups={layer.groups}; only groups=1 can be adapted")
    root.requires_grad_(False)
    for _, layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer, rank, generator))
        if layer.bias is not None:
            parametrize.register_parametrization(layer, "bias", Shift(layer.bias))
    return _parameters(root)


def detach_adapter(root: nn.Module, *, merge: bool = False) -> None:
    """Take the adapter off: the layers are as before, or (merge) keep its effect as plain weights."""
    for _, layer in list(_layers(root)):
        for tensor in ("weight", "bias"):
            if parametrize.is_parametrized(layer, tensor):
                parametrize.remove_parametrizations(layer, tensor, leave_parametrized=merge)


def adapter_state(root: nn.Module) -> dict[str, Tensor]:
    """A copy of the attached adapter's parameters, by name."""
    return {name: parameter.detach().clone().contiguous() for name, parameter in _parameters(root).items()}


def load_adapter_state(root: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill an attached adapter.

    Raises:
        InputError: If names or shapes are not those of the layers under `root`.
    """
    own = _parameters(root)
    differ = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if differ:
        raise InputError(
            f"the adapter does not fit this model: {len(differ)} tensors differ, first {differ[0]}; "
            "use it with the model it was trained on"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def save_adapter(directory: Path, description: AdapterDescription, state: Mapping[str, Tensor]) -> None:
    """Write `adapters.safetensors` and `adapters.json` into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), directory / WEIGHTS_FILE)
    text = json.dumps(asdict(description), indent=2, sort_keys=True)
    (directory / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")


def load_adapter(directory: Path) -> tuple[AdapterDescription, dict[str, Tensor]]:
    """Read what `save_adapter` wrote; nothing in it is executed.

    Raises:
        InputError: If a file is missing, damaged, or of another format.
    """
    fields = _read(directory / DESCRIPTION_FILE, lambda path: json.loads(path.read_text(encoding="utf-8")))
    state: dict[str, Tensor] = _read(directory / WEIGHTS_FILE, load_file)
    known = fields.get("format") if isinstance(fields, dict) else None
    if known != FORMAT:
        raise InputError(f"{directory}: adapter format {known}, this version reads {FORMAT}; run adapt again")
    support = tuple(str(key) for key in fields["support"])
    return AdapterDescription(int(fields["rank"]), str(fields["model_digest"]), support), state


def _read(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except FileNotFoundError:
        raise InputError(f"{path.parent}: not an adapter: {path.name} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run adapt again") from None


def _layers(root: nn.Module) -> Iterator[tuple[str, Adaptable]]:
    for name, module in root.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            yield name, module


def _parameters(root: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, module in root.named_modules():
        if isinstance(module, LowRank | Shift):
            layer = name.replace("parametrizations.", "").removesuffix(".0")
            found |= {f"{layer}.{own}": parameter for own, parameter in module.named_parameters()}
    return found
