"""What an update asks of the other processes; alone, every answer is one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def _own(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class Peers:
    """Every process makes the same calls in the same order.

    Attributes:
        size: Number of processes.
        total: Adds numbers up over processes, without gradient.
        gather: The rows of all processes, in the order of their ranks. Gradients of what any process
            makes of a row come back to it, added up.
    """

    size: int = 1
    total: Callable[[Tensor], Tensor] = _own
    gather: Callable[[Tensor], Tensor] = _own


ALONE = Peers()


def gather_rows(local: Float[Tensor, "batch ..."]) -> Float[Tensor, "rows ..."]:
    """The rows of all processes of the default group, with gradients."""
    gathered: Tensor = torch.cat(_AllGather.apply(local))  # type: ignore[no-untyped-call]
    return gathered


class _AllGather(torch.autograd.Function):
    """All-gather whose backward adds up what every process made of this one's rows."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, local.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        stacked = torch.stack(gradients)
        torch.distributed.all_reduce(stacked)
        return stacked[torch.distributed.get_rank()]
