"""A run as a SLURM job: the script that `sbatch` takes, and its submission."""

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.durable import write_text
from pipeline.errors import InputError
from pipeline.orchestration.cluster import ClusterRun, fill, shell_words

TEMPLATE = "slurm.sh"


@dataclass(frozen=True)
class SlurmJob:
    """What is asked of SLURM.

    Attributes:
        run: What every node starts.
        launcher: Path of launch.sh, the same on every node.
        directory: Working directory, the same on every node.
        output: Where the script and the log go.
        options: `sbatch` options such as `--partition=gpu`, one per line of the script.
        grace_s: How long before the time limit the run is asked to stop.
    """

    run: ClusterRun
    launcher: Path
    directory: Path
    output: Path
    options: tuple[str, ...]
    grace_s: int

    @property
    def script_path(self) -> Path:
        """Where the script is kept for a look at what ran."""
        return self.output / "job.sh"

    def script(self) -> str:
        """The script."""
        name = self.run.config.name
        return fill(
            TEMPLATE,
            {
                "NAME": shlex.quote(name),
                "NODES": str(self.run.nodes),
                "OPTIONS": "\n".join(f"#SBATCH {option}" for option in self.options),
                "DIRECTORY": shlex.quote(str(self.directory)),
                "OUTPUT": shlex.quote(f"{str(self.output).replace('%', '%%')}/%j.log"),
                "GRACE": str(self.grace_s),
                "COMMAND": shell_words(self.run.command(str(self.launcher))),
            },
        )

    def command(self) -> tuple[str, ...]:
        """The command that submits the script."""
        return ("sbatch", "--parsable", str(self.script_path))

    def submit(self) -> str:
        """Write the script and hand it to SLURM.

        Returns:
            The job's number.

        Raises:
            InputError: If there is no sbatch here, or it refuses.
        """
        if shutil.which("sbatch") is None:
            raise InputError(
                "sbatch: not found, so this is no login node of a SLURM cluster; go to one, or add --dry-run "
                "to see the script and copy it there"
            )
        self.output.mkdir(parents=True, exist_ok=True)  # SLURM does not make the folder of a log
        write_text(self.script_path, self.script())
        answer = subprocess.run(self.command(), capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise InputError(
                f"sbatch refused {self.script_path}: {answer.stderr.strip() or answer.stdout.strip()}"
            )
        return answer.stdout.strip().partition(";")[0]


def slurm_options(
    *,
    gpus_per_node: int | None,
    cpus_per_task: int | None,
    values: dict[str, str | None],
    others: tuple[str, ...],
) -> tuple[str, ...]:
    """Lines of the script's header.

    Args:
        gpus_per_node: GPUs on each machine.
        cpus_per_task: Cores on each machine. With neither, the machines are asked for whole, since SLURM
            would give one core.
        values: Long options of `sbatch` and their values, None to leave one out.
        others: Further options as `sbatch` takes them.

    Raises:
        InputError: If one of `others` is no long option, or one that the script sets by itself.
    """
    chosen = {"gpus-per-node": gpus_per_node, "cpus-per-task": cpus_per_task, **values}
    lines = [f"--{name}={shlex.quote(str(value))}" for name, value in chosen.items() if value is not None]
    if gpus_per_node is None and cpus_per_task is None:
        lines.append("--exclusive")
    for option in others:
        name = option.partition("=")[0]
        if not option.startswith("--") or any(letter.isspace() for letter in option):
            raise InputError(
                f"--sbatch {option}: write it as --sbatch=--constraint=a100, one option at a time"
            )
        if name in (
            "--nodes",
            "--ntasks-per-node",
            "--ntasks",
            "--requeue",
            "--signal",
            "--output",
            "--chdir",
        ):
            raise InputError(
                f"--sbatch {option}: the script sets {name} itself; see configs/cluster/{TEMPLATE}"
            )
        lines.append(option)
    return tuple(lines)
