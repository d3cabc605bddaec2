"""The processes of a stage as one: device, gradients averaged, numbers added up, and an orderly end."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.orchestration.stage import World
from pipeline.training.peers import Peers, gather_rows
from pipeline.training.sharding import is_sharded, shard

TIMEOUT = timedelta(minutes=5)
"""How long a process waits in a collective for one that may have died."""


@dataclass(frozen=True)
class Processes:
    """This process among its peers, connected.

    Attributes:
        world: Which one it is.
        device: Where it computes.
    """

    world: World
    device: torch.device
    _accelerator: Any

    def divide(self, model: SharedLatentAutoencoder) -> None:
        """Divide a model's weights among the processes, in place; one process keeps all."""
        if self.world.size > 1:
            shard(model, init_device_mesh(self.device.type, (self.world.size,)))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, behind DistributedDataParallel if there are several processes.

        A divided one averages its own gradients and stays as it is. Buffers are constants or, in one
        process alone, running statistics: they are not broadcast.
        """
        if is_sharded(model):
            return model
        with warnings.catch_warnings():
            # torch renames broadcast_buffers=False, and advises to keep it where buffers are not synced.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def sum(self, values: Float64[Tensor, " value"]) -> Float64[Tensor, " value"]:
        """Added up over processes; every process must call it."""
        if self.world.size == 1:
            return values
        total: Tensor = self._accelerator.reduce(values, reduction="sum")
        return total

    def peers(self) -> Peers:
        """What an update asks of the other processes."""
        if self.world.size == 1:
            return Peers()
        return Peers(self.world.size, self.sum, gather_rows)

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process; every process must call it."""
        if self.world.size == 1:
            return flag
        return bool(self.sum(torch.tensor([float(flag)], dtype=torch.float64, device=self.device)).item() > 0)

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()


@contextmanager
def connect(world: World, device: Literal["auto", "cpu", "cuda"]) -> Iterator[Processes]:
    """Join the other processes that torchrun started; leave together at the end.

    Raises:
        InputError: If a GPU is asked for and there is none.
        RuntimeError: If the processes did not find each other.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device: cuda, but PyTorch sees no GPU here; use auto or cpu")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",  # autocast is the update's business
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )
    if accelerator.num_processes != world.size:
        raise RuntimeError(
            f"{world.size} processes were started (WORLD_SIZE={os.environ.get('WORLD_SIZE', 'unset')}) but "
            f"{accelerator.num_processes} found each other"
        )
    try:
        yield Processes(world, accelerator.device, accelerator)
        accelerator.wait_for_everyone()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 products natively (on a CPU: AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def own_device(world: World) -> torch.device:
    """Where a process that needs no peers computes: a GPU of its own if there are any, else the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return torch.device("cuda", world.local_rank % count) if count else torch.device("cpu")
