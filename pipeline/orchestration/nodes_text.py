"""What people are told of several machines: what each would do, and what to do when one is missing."""

import os
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import command_name
from pipeline.orchestration.checkpoint_seen import newest_checkpoint
from pipeline.orchestration.execution import Launch
from pipeline.orchestration.nodes import Nodes
from pipeline.orchestration.nodes_agent import KEEP_ALIVE_ATTEMPTS, KEEP_ALIVE_S
from pipeline.orchestration.nodes_lead import MachineMissing
from pipeline.orchestration.origin import Origin
from pipeline.orchestration.plan import Selection
from pipeline.orchestration.processes import PARENT, threads_per_process, worker_environment
from pipeline.orchestration.stage import STAGES, StageName


def missing_text(
    config: Config,
    origin: Origin,
    selection: Selection,
    launch: Launch,
    run_directory: Path,
    missing: MachineMissing,
) -> str:
    """Which machine is missing, what is safe, and what to type: with it, and without."""
    assert launch.nodes is not None
    names = ", ".join(missing.names)
    lines = [f"{names} did not come within {missing.waited_s} s (RDZV_TIMEOUT changes that)"]
    lines += [f"  {_saved(run_directory)}"]
    lines += ["  start the same command again on every machine, or go on with fewer:"]
    lines += [f"    {line}" for line in fewer(config, origin, selection, launch, missing.present)]
    return "\n".join(lines)


def fewer(config: Config, origin: Origin, selection: Selection, launch: Launch, machines: int) -> list[str]:
    """What to type on so many machines, or on fewer still if the batch cannot be divided among them.

    What was forced is not forced again: it has begun.
    """
    assert launch.nodes is not None
    count, processes = next(
        (count, processes)
        for count in range(machines, 0, -1)
        for processes in range(launch.processes, 0, -1)
        if config.train.batch % (count * processes) == 0
    )
    words = f"{origin.arguments()}{_stages(selection)}"
    if count == 1:
        return [f"NNODES=1 {command_name()} run {words} --nproc {processes}"]
    return [_typed(words, launch, launch.nodes, rank, count, processes) for rank in range(count)]


def dry_run_text(
    config: Config,
    origin: Origin,
    selection: Selection,
    launch: Launch,
    root: Path,
    distributed: Collection[StageName],
) -> str:
    """For each machine the command and environment, and what torchrun is told there."""
    assert launch.nodes is not None
    return "\n".join(_dry_run(config, origin, selection, launch, root, distributed))


def _dry_run(
    config: Config,
    origin: Origin,
    selection: Selection,
    launch: Launch,
    root: Path,
    distributed: Collection[StageName],
) -> Iterator[str]:
    nodes, batch = launch.nodes, config.train.batch
    assert nodes is not None
    on_each = _several(launch.processes, "process", "processes")
    yield (
        f"{config.name} on {nodes.count} machines, {on_each} on each, {launch.world} together; "
        f"each takes {batch // launch.world} of a batch's {batch} samples"
    )
    forced = [f" --force {stage}" for stage in STAGES if stage in selection.force]
    words = f"{origin.arguments()}{_stages(selection)}{''.join(forced)}{' --wait' if launch.wait else ''}"
    for rank in range(nodes.count):
        yield f"\ntype on machine {rank}{', the lead' if rank == 0 else ''}, in {Path.cwd()}:"
        yield f"  {_typed(words, launch, nodes, rank, nodes.count, launch.processes)}"
    selected = [stage for stage in STAGES if stage in selection]
    shared = [stage for stage in selected if stage in distributed]
    alone = [stage for stage in selected if stage not in distributed]
    yield f"\nall machines work on {', '.join(shared)}" if shared else ""
    if alone:
        yield f"the lead alone works on {', '.join(alone)}"
    yield "\neach starts the processes of a stage by itself; as commands of torchrun that would be,"
    for is_lead in (True, False):
        yield f"on {'the lead' if is_lead else 'the others'}:"
        yield f"  {_torchrun(config, launch, root, nodes, is_lead=is_lead)}"
    threads = threads_per_process(launch.processes)
    given = worker_environment(threads)
    yield (
        "\nand in the environment of the processes, beside RANK, WORLD_SIZE and so on "
        f"({_several(threads, 'thread', 'threads')} in each):"
    )
    for name, value in given.items():
        if os.environ.get(name) != value and name != PARENT:
            yield f"  {name}={value}"
    yield "  GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME: the interface that reaches the others, unless set"


def _torchrun(config: Config, launch: Launch, root: Path, nodes: Nodes, *, is_lead: bool) -> str:
    job = root / config.name / (".job.json" if is_lead else ".job.node-N.json")
    settings = {
        "is_host": int(is_lead),
        "join_timeout": nodes.return_timeout_s,
        "keep_alive_interval": KEEP_ALIVE_S,
        "keep_alive_max_attempt": KEEP_ALIVE_ATTEMPTS,
    }
    meeting = f"{nodes.run_id}-STAGE-ATTEMPT"
    words = ["torchrun", f"--nnodes={nodes.count}", f"--nproc-per-node={launch.processes}"]
    words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={nodes.endpoint}", f"--rdzv-id={meeting}"]
    words += [f"--rdzv-conf={','.join(f'{name}={value}' for name, value in settings.items())}"]
    words += [f"--max-restarts={launch.max_restarts}", "--local-addr=ADDRESS-OF-THIS-MACHINE"]
    return shlex.join([*words, "-m", launch.worker, "--job", str(job)])


def _several(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _stages(selection: Selection) -> str:
    """The flags that select stages; they begin with a space."""
    first = f" --from {selection.first}" if selection.first != STAGES[0] else ""
    last = f" --until {selection.last}" if selection.last != STAGES[-1] else ""
    return first + last


def _typed(words: str, launch: Launch, nodes: Nodes, rank: int, count: int, processes: int) -> str:
    """The command of one machine, with the environment that it needs."""
    variables = {
        "NNODES": count,
        "NODE_RANK": rank,
        "NPROC_PER_NODE": processes,
        "RDZV_ENDPOINT": nodes.endpoint,
        "RDZV_ID": nodes.run_id,
        "MAX_RESTARTS": launch.max_restarts,
    }
    if nodes.start_timeout_s == nodes.return_timeout_s:  # somebody has set it
        variables["RDZV_TIMEOUT"] = nodes.return_timeout_s
    set_here = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
    return f"{set_here} {command_name()} multinode {words}"


def _saved(run_directory: Path) -> str:
    """What training can go on from."""
    found = newest_checkpoint(run_directory / "train" / "checkpoints")
    if found is None or found["name"] is None:
        return f"nothing in {run_directory} is damaged by that; there is no checkpoint yet"
    checked = "its checksums were verified just now" if found["valid"] else "all its files are there"
    return (
        f"what is saved is intact: {run_directory / 'train' / 'checkpoints' / found['name']}, "
        f"{found['samples']} samples ({checked})"
    )
