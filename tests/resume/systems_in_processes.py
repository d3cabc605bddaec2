"""Train small systems in float64, in one process or as one of several; save what both players became.

    python systems_in_processes.py DIRECTORY [ACCUMULATION SYSTEM ...]

As one of several where `processes_together` starts it. With DIVIDED=1 in the environment weights are
divided among the processes.
"""

import json
import os
import sys
from pathlib import Path

import torch
from processes_together import total, wrap
from safetensors.torch import save_file
from small_systems import UPDATES, begin, learn, names, updates
from torch.distributed.device_mesh import init_device_mesh

from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.training.peers import Peers, gather_rows
from pipeline.training.sharding import NETWORKS, local, shard, whole_weights


def divide(model: SharedLatentAutoencoder) -> None:
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    shard(model, mesh, unit=2000)  # some layers by themselves
    weights = [parameter for kind in NETWORKS for parameter in getattr(model, kind).parameters()]
    own, whole = (sum(map(torch.numel, tensors)) for tensors in (map(local, weights), weights))
    assert 0.4 * whole < own < 0.6 * whole


def train(name: str, rank: int, size: int, directory: Path, accumulation: int = 1) -> None:
    divided = os.environ.get("DIVIDED") == "1"
    state = begin(name, torch.float64, divide if divided else lambda model: None)
    update = updates(
        name,
        state,
        peers=Peers(size, total, gather_rows) if size > 1 else None,
        accumulation=accumulation,
        model=state.model if divided else wrap(state.model, size),
        discriminators={key: wrap(player, size) for key, player in state.discriminators.items()},
    )
    lines = learn(update, state, torch.float64, 0, UPDATES, rank, size)
    model = whole_weights(state.model) if divided else state.model.state_dict()
    if rank == 0:
        weights = {f"model.{key}": value for key, value in model.items()}
        weights |= {f"players.{key}": value for key, value in state.discriminators.state_dict().items()}
        save_file(
            {key: value.contiguous() for key, value in weights.items()}, directory / f"{name}.safetensors"
        )
        (directory / f"{name}.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_rank, own_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    folder = Path(sys.argv[1])
    if own_size > 1:
        torch.distributed.init_process_group("gloo")
    parts, chosen = int(sys.argv[2]) if sys.argv[2:] else 1, sys.argv[3:] or names()
    for system in chosen:
        train(system, own_rank, own_size, folder, parts)
    if own_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
