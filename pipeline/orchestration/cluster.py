"""What SLURM and Kubernetes have in common: the command every machine starts, and templates filled in."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import InputError

TEMPLATES = Path(__file__).resolve().parents[2] / "configs" / "cluster"

_WORD = re.compile(r"@([A-Z_]+)@")


@dataclass(frozen=True)
class ClusterRun:
    """A run as every machine of a cluster starts it.

    Attributes:
        config: The resolved config; checked before anything is submitted.
        arguments: What follows the command word: CONFIG and the run's flags.
        nodes: Machines.
        gpus: On each machine; None where it was not said.
        processes: On each machine; None to let the machine decide.
    """

    config: Config
    arguments: tuple[str, ...]
    nodes: int
    gpus: int | None = None
    processes: int | None = None

    def command(self, launcher: str) -> tuple[str, ...]:
        """The words to type on every machine.

        A machine that is replaced may find the lock of the one that it replaces, whose heartbeat must first
        grow old: therefore --wait.
        """
        verb = "multinode" if self.nodes > 1 else "run"
        count = ("--nproc", str(self.processes)) if self.processes else ()
        return (launcher, verb, *self.arguments, *count, "--wait")

    def all_processes(self) -> int:
        """Of all machines together, as far as can be known before they start."""
        on_each = self.processes or (self.gpus if self.config.train.device != "cpu" else 1)
        return self.nodes * (on_each or 1)

    def refuse_uneven(self) -> None:
        """Refuse a batch that cannot be divided, before anybody waits in a queue for it.

        Raises:
            InputError: If it cannot.
        """
        if self.config.train.batch % self.all_processes():
            raise InputError(
                f"train.batch {self.config.train.batch} cannot be divided among {self.all_processes()} "
                f"processes ({self.nodes} x {self.all_processes() // self.nodes}) evenly; change one of them"
            )


def fill(template: str, words: dict[str, str]) -> str:
    """A template of configs/cluster with each @WORD@ replaced.

    A word alone on its line may stand for several lines, which keep its indentation, or for none. Lines
    that begin with #@ speak of the template itself and are left out.

    Raises:
        KeyError: If the template has a word that nobody filled in.
    """
    lines = []
    for line in (TEMPLATES / template).read_text(encoding="utf-8").splitlines():
        if line.startswith("#@"):
            continue
        alone = _WORD.fullmatch(line.strip())
        if alone and not words[alone[1]]:
            continue
        indent = line[: len(line) - len(line.lstrip())]
        filled = _WORD.sub(lambda found: words[found[1]], line.strip())
        lines += [f"{indent}{part}" if part else "" for part in filled.split("\n")]
    return "\n".join(lines) + "\n"


def shell_words(words: tuple[str, ...]) -> str:
    """A command line that a shell reads back as these words."""
    return shlex.join(words)
