"""Networks whose weights are divided among processes, for models too large for one device (FSDP2).

What is divided is the networks of every modality: weights, gradients, moments and moving average. What a
loss reads outside of them (scales, a joint encoder's pooling) is small and whole in every process, and so
are discriminators, because a penalty on their gradients differentiates through a backward pass, which
`fully_shard` does not support. Everything here also takes modules and tensors that are not divided.

Source: Zhao et al. 2023 (arXiv:2304.11277).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline.training.peers import Peers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from pipeline.models.autoencoder import SharedLatentAutoencoder

NETWORKS = ("encoders", "decoders")

UNIT = 1 << 20
"""Parameters from which on a layer is gathered by itself; the rest of a network is gathered as a whole."""


def shard(model: SharedLatentAutoencoder, mesh: DeviceMesh, unit: int = UNIT) -> None:
    """Divide the networks of a model among the processes of a mesh, in place.

    Optimisers have to be made afterwards, since parameters become other objects. Weights are gathered for
    every forward and backward pass and let go after it.

    Args:
        model: Whole, the same in every process.
        mesh: One dimension.
        unit: Parameters from which on a layer is gathered by itself.
    """
    from torch.distributed.fsdp import fully_shard

    # Images and features are views of what the last layer gives, and nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    for kind in NETWORKS:
        for network in getattr(model, kind).values():
            network.to(memory_format=torch.contiguous_format)  # rows of a weight are cut apart
            for layer in [*_layers(network, unit), network]:
                fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of the weights only."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in place."""
    own: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights in the host's memory, in the first process; empty in the others, all of which must ask."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def fill(target: Tensor, whole: Tensor) -> None:
    """Give a tensor the values of one of its whole shape; of a divided one, this process's part.

    Raises:
        ValueError: If the shapes differ.
    """
    if target.shape != whole.shape:
        raise ValueError(f"shape {tuple(whole.shape)}, expected {tuple(target.shape)}")
    with torch.no_grad():
        if isinstance(target, DTensor):
            from torch.distributed.tensor import distribute_tensor

            whole = distribute_tensor(
                whole.to(target.device, target.dtype),
                target.device_mesh,
                target.placements,
                src_data_rank=None,
            ).to_local()
        local(target).copy_(whole)


def average_whole_gradients(model: nn.Module, peers: Peers) -> None:
    """Average over processes what a sharded model holds whole; the divided rest already is."""
    if not is_sharded(model):
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not isinstance(p, DTensor)]
    if not gradients:
        return
    flat = peers.total(torch.cat([gradient.flatten() for gradient in gradients])) / peers.size
    for gradient, mean in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):  # type: ignore[no-untyped-call]
        gradient.copy_(mean.view_as(gradient))


def gradient_norm(parameters: Iterable[Tensor], peers: Peers) -> Float[Tensor, ""]:
    """Euclidean norm of all gradients, those of divided parameters over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    divided = [local(gradient) for gradient in gradients if isinstance(gradient, DTensor)]
    norm = torch.nn.utils.get_total_norm([one for one in gradients if not isinstance(one, DTensor)])
    if not divided:
        return norm
    squares = peers.total(torch.nn.utils.get_total_norm(divided).square().double().view(1))[0]
    return (squares + norm.double().square().to(squares.device)).sqrt().to(divided[0].dtype)


def clip(parameters: Sequence[nn.Parameter], largest: float, norm: Float[Tensor, ""]) -> None:
    """Scale gradients so that their norm is at most the largest."""
    parts = []
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor):
            part = nn.Parameter(local(parameter.detach()))
            part.grad = local(parameter.grad)
            parts.append(part)
        else:
            parts.append(parameter)
    torch.nn.utils.clip_grads_with_norm_(parts, largest, norm)


def _layers(network: nn.Module, unit: int) -> list[nn.Module]:
    """Layers that are gathered by themselves: those without layers of their own."""
    return [
        layer
        for layer in network.modules()
        if not any(layer.children()) and sum(p.numel() for p in layer.parameters()) >= unit
    ]
