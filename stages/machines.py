"""On how many machines and in how many processes a command works, and whether this one leads or follows."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.orchestration.nodes import Nodes, nodes_from, whole_number

if TYPE_CHECKING:
    from pipeline.orchestration.origin import Origin
    from pipeline.orchestration.plan import Selection
    from pipeline.orchestration.supervisor import Launch

WORKER = "stages.worker"
"""The module that does one stage in a process."""


def launch_of(arguments: argparse.Namespace, config: Config) -> "Launch":
    """What the flags and the environment say.

    Raises:
        InputError: If they cannot be followed, or a batch cannot be divided among all processes.
    """
    from pipeline.orchestration.supervisor import Launch

    nodes = nodes_from(os.environ, config.name)
    if arguments.command == "multinode" and "NNODES" not in os.environ:
        raise InputError(
            "multinode: NNODES is not set; start the same command on every machine with NNODES, "
            "RDZV_ENDPOINT (HOST:PORT of the lead) and NODE_RANK (0 on the lead), or use `run` on one machine"
        )
    launch = Launch(
        worker=WORKER,
        processes=_processes(arguments, config),
        max_restarts=whole_number(os.environ, "MAX_RESTARTS", 0),
        wait=arguments.wait,
        nodes=nodes,
    )
    refuse_uneven(config, launch)
    return launch


def refuse_uneven(config: Config, launch: "Launch") -> None:
    """Every process takes the same number of a batch's samples.

    Raises:
        InputError: If that is not possible.
    """
    if config.train.batch % (launch.world * config.train.accumulation):
        parts = config.train.accumulation
        in_parts = f" and train.accumulation {parts}" if parts > 1 else ""
        on_each = f"{launch.nodes.count} machines with " if launch.nodes else ""
        raise InputError(
            f"train.batch {config.train.batch} cannot be divided among {on_each}--nproc {launch.processes} "
            f"processes{in_parts} evenly; change one of them"
        )


def refuse_several(launch: "Launch", command: str) -> None:
    """For what works on one machine.

    Raises:
        InputError: If there are several.
    """
    if launch.nodes:
        raise InputError(
            f"NNODES={launch.nodes.count}: {command} works on one machine; unset it and use --nproc, or "
            "`multinode` for one run after the other"
        )


def dry_run(config: Config, origin: "Origin", selection: "Selection", launch: "Launch", root: Path) -> str:
    """What each machine would do."""
    from pipeline.orchestration.nodes_text import dry_run_text
    from pipeline.orchestration.supervisor import DISTRIBUTED

    return dry_run_text(config, origin, selection, launch, root, DISTRIBUTED)


def follow(config: Config, root: Path, launch: "Launch", nodes: Nodes) -> int:
    """Take part in a run that another machine leads; the exit code when it is done.

    Raises:
        StageFailed: If it failed, or nobody leads it any more.
    """
    from pipeline.orchestration.nodes_follower import RunFailed
    from pipeline.orchestration.nodes_follower import follow as take_part
    from pipeline.orchestration.supervisor import StageFailed

    try:
        take_part(config, root, nodes, launch.worker, launch.processes)
    except RunFailed as failure:
        raise StageFailed(str(failure), 1) from None
    return 0


def _processes(arguments: argparse.Namespace, config: Config) -> int:
    """Of a stage on this machine: what --nproc or NPROC_PER_NODE says, else one per GPU."""
    from pipeline.orchestration.gpus import default_processes

    asked: int | None = arguments.nproc
    return (
        asked
        or whole_number(os.environ, "NPROC_PER_NODE", 0, least=1)
        or default_processes(config.train.device)
    )
