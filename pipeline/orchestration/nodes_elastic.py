"""torchrun's agent, but that bad input is not tried again: it would be refused in the same words."""

import os
import sys
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.launcher.api import LaunchConfig

from pipeline.orchestration.processes import BAD_INPUT, FAILED_ELSEWHERE, STOPPED


class Agent(LocalElasticAgent):
    """Starts processes again after one of them died, but not after one refused its input."""

    met = False
    """Whether the processes of all machines have found each other."""

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.met = True
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        found: RunResult = super()._monitor_workers(worker_group)
        if any(failure.exitcode == BAD_INPUT for failure in found.failures.values()):
            self._remaining_restarts = 0
        return found


def launch(config: LaunchConfig, command: list[str]) -> int:
    """Run a Python module in several processes until all have ended.

    Args:
        config: How many, how often again, and where they meet.
        command: The module and its arguments.

    Returns:
        0 if all of them ended so, 75 if the agent was asked to stop, else what tells best why they failed.

    Raises:
        RendezvousError: If the machines did not find each other.
    """
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = config.signals_to_handle
    parameters = RendezvousParameters(
        config.rdzv_backend,
        config.rdzv_endpoint,
        config.run_id,
        config.min_nodes,
        config.max_nodes,
        config.local_addr,
        **config.rdzv_configs,
    )
    meeting = get_rendezvous_handler(parameters)
    spec = WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=sys.executable,
        args=("-u", "-m", *command),
        rdzv_handler=meeting,
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        local_addr=config.local_addr,
        numa_options=config.numa_options,
    )
    agent = Agent(
        spec, DefaultLogsSpecs(), config.start_method, shutdown_timeout=config.shutdown_timeout or 0
    )
    try:
        result = agent.run()
    except SignalException:
        return STOPPED  # those of other machines may go on
    except RendezvousError:
        meeting.shutdown()
        if agent.met:
            return FAILED_ELSEWHERE  # another machine has given up, and knows why
        raise
    meeting.shutdown()
    return verdict([failure.exitcode for failure in result.failures.values()])


def verdict(codes: list[int]) -> int:
    """The exit code that says best why processes failed; 0 where none did.

    Args:
        codes: Of those that failed; minus the number of the signal that ended one.
    """
    causes = [code for code in codes if code != FAILED_ELSEWHERE] or codes
    first = BAD_INPUT if BAD_INPUT in causes else next(iter(causes), 0)
    return first if first >= 0 else 128 - first
