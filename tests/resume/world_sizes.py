"""Train small systems in one, two and four processes and write down every update's report.

    RANK=0 MASTER_PORT=29500 python world_sizes.py DIRECTORY UPDATES SYSTEM ...

SIZES="2 1" and DTYPES=float32 leave out the others. Four of these processes meet in turn as four, as two
and as one, which saves starting seven.
"""

import json
import os
import sys
from datetime import timedelta
from itertools import product
from pathlib import Path

import small_systems
import torch
from processes_together import total, wrap
from small_systems import BATCH, begin, choose, learn, updates
from torch import distributed

from pipeline.config.accumulation import indivisible
from pipeline.config.training import Train
from pipeline.training.peers import Peers, gather_rows

SIZES = tuple(map(int, os.environ.get("SIZES", "4 2 1").split()))
DTYPES = {name: getattr(torch, name) for name in os.environ.get("DTYPES", "float64 float32").split()}


def history(
    name: str, dtype: torch.dtype, rank: int, size: int, count: int, accumulation: int
) -> list[dict[str, float]]:
    """What every update reported, the same in every process."""
    state = begin(name, dtype)
    update = updates(
        name,
        state,
        peers=Peers(size, total, gather_rows) if size > 1 else None,
        accumulation=accumulation,
        model=wrap(state.model, size),
        discriminators={key: wrap(player, size) for key, player in state.discriminators.items()},
    )
    return learn(update, state, dtype, 0, count, rank, size)


def divides(name: str, size: int) -> bool:
    """Whether the system may be trained in two micro-batches of every process's rows."""
    return size < BATCH // 2 and not list(indivisible(*choose(name), Train(batch=BATCH, accumulation=2)))


def main() -> None:
    torch.set_num_threads(1)
    rank, directory, count = int(os.environ["RANK"]), Path(sys.argv[1]), int(sys.argv[2])
    port = int(os.environ["MASTER_PORT"])
    small_systems.TRAIN = small_systems.TRAIN.model_copy(update={"samples": BATCH * count})
    store = distributed.TCPStore("127.0.0.1", port, is_master=rank == 0, timeout=timedelta(seconds=120))
    for size in SIZES:
        if rank >= size:
            continue
        if size > 1:
            own = distributed.PrefixStore(str(size), store)
            distributed.init_process_group("gloo", store=own, rank=rank, world_size=size)
        for name, dtype, accumulation in product(sys.argv[3:], DTYPES, (1, 2)):
            if accumulation > 1 and not divides(name, size):
                continue
            reports = history(name, DTYPES[dtype], rank, size, count, accumulation)
            if rank == 0:
                path = directory / f"{name}-{dtype}-{size}-{accumulation}.json"
                path.write_text(json.dumps(reports))
        if size > 1:
            distributed.barrier()
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
