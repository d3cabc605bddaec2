"""`slurm` and `k8s`: a run handed to a cluster; their flags, and what is said about it."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pipeline.config import Config
from pipeline.errors import InputError, command_name
from pipeline.orchestration.cluster import ClusterRun, shell_words
from pipeline.orchestration.cluster_kubernetes import TEMPLATES, KubernetesJob
from pipeline.orchestration.cluster_slurm import SlurmJob, slurm_options

LAUNCHER = Path(__file__).resolve().parents[1] / "launch.sh"
GRACE_S = 120


def add_flags(parser: argparse.ArgumentParser, command: str, positive: Callable[[str], int]) -> None:
    """The flags of `slurm` or `k8s` beside those of a run."""
    parser.add_argument("--force", action="append", help=argparse.SUPPRESS)  # refused, with the reason
    asked = parser.add_argument_group("what is asked of the cluster")
    asked.add_argument("--nodes", metavar="N", type=positive, default=1, help="machines (default: 1)")
    asked.add_argument("--gpus-per-node", metavar="G", type=positive, help="GPUs of each machine")
    asked.add_argument(
        "--grace",
        metavar="SECONDS",
        type=positive,
        default=GRACE_S,
        help=f"time for the last checkpoint before the job is killed (default: {GRACE_S})",
    )
    if command == "slurm":
        _add_slurm_flags(asked, positive)
    else:
        _add_kubernetes_flags(asked, positive)


def _add_slurm_flags(asked: argparse._ArgumentGroup, positive: Callable[[str], int]) -> None:
    asked.add_argument("--cpus-per-task", metavar="C", type=positive, help="cores of each machine")
    asked.add_argument("--mem", metavar="SIZE", help="memory of each machine, as in 64G")
    asked.add_argument("--time", metavar="LIMIT", help="time limit, as in 8:00:00 or 2-00:00:00")
    asked.add_argument("--partition", metavar="NAME", help="as your site calls it")
    asked.add_argument("--account", metavar="NAME", help="as your site calls it")
    asked.add_argument("--qos", metavar="NAME", help="as your site calls it")
    asked.add_argument(
        "--sbatch",
        metavar="OPTION",
        action="append",
        default=[],
        help="any other option of sbatch, as in --sbatch=--constraint=a100; may be repeated",
    )
    asked.add_argument(
        "--output", metavar="DIR", type=Path, help="where script and log go (default: ROOT/NAME/slurm)"
    )


def _add_kubernetes_flags(asked: argparse._ArgumentGroup, positive: Callable[[str], int]) -> None:
    asked.add_argument("--cpus-per-node", metavar="C", type=positive, help="cores of each pod")
    asked.add_argument("--memory", metavar="SIZE", help="memory of each pod, as in 64Gi")
    asked.add_argument(
        "--volume-claim",
        metavar="NAME",
        required=True,
        help="the persistent volume claim, mountable by all pods, that holds the checkout and the runs",
    )
    asked.add_argument(
        "--mount",
        metavar="DIR",
        type=PurePosixPath,
        default=PurePosixPath("/workspace"),
        help="where pods mount it (default: /workspace)",
    )
    asked.add_argument(
        "--checkout",
        metavar="DIR",
        type=PurePosixPath,
        help="where this checkout lies in a pod (default: what --mount says)",
    )
    asked.add_argument(
        "--image", metavar="IMAGE", default="python:3.12", help="container image (default: python:3.12)"
    )
    asked.add_argument("--namespace", metavar="NAME", help="default: kubectl's current one")
    asked.add_argument("--secret", metavar="NAME", help="a Secret whose keys become environment variables")
    asked.add_argument(
        "--kind",
        choices=tuple(TEMPLATES),
        default="job",
        help="an indexed Job with a headless service (default), or a TrainJob of Kubeflow Trainer 2",
    )


def slurm(arguments: argparse.Namespace, config: Config, root: Path) -> int:
    """Print or submit a SLURM job.

    Raises:
        InputError: If flags do not fit together, or there is no SLURM here.
    """
    run = _cluster_run(arguments, config, str(arguments.config))
    job = SlurmJob(
        run=run,
        launcher=LAUNCHER,
        directory=Path.cwd(),
        output=(arguments.output or root / config.name / "slurm").absolute(),
        options=slurm_options(
            gpus_per_node=arguments.gpus_per_node,
            cpus_per_task=arguments.cpus_per_task,
            values={
                name: getattr(arguments, name) for name in ("mem", "time", "partition", "account", "qos")
            },
            others=tuple(arguments.sbatch),
        ),
        grace_s=arguments.grace,
    )
    if arguments.dry_run:
        print(job.script(), end="")
        _say(f"this script would be written to {job.script_path} and submitted with")
        _say(f"  {shell_words(job.command())}")
        return 0
    number = job.submit()
    _say(f"job {number} is in the queue; its script is {job.script_path}, its log {job.output}/{number}.log")
    _say(f"`{command_name()} status {shell_words(_shown(arguments))}` says how far it is")
    _say(f"`scancel {number}` ends it; submitted again, it continues")
    return 0


def k8s(arguments: argparse.Namespace, config: Config) -> int:
    """Print or apply a Kubernetes manifest.

    Raises:
        InputError: If flags do not fit together, or there is no kubectl here.
    """
    checkout: PurePosixPath = arguments.checkout or arguments.mount
    _refuse_unshared(arguments.root, arguments.mount, checkout)
    job = KubernetesJob(
        run=_cluster_run(arguments, config, _within_checkout(arguments.config)),
        image=arguments.image,
        claim=arguments.volume_claim,
        mount=arguments.mount,
        checkout=checkout,
        namespace=arguments.namespace,
        secret=arguments.secret,
        cpus=arguments.cpus_per_node,
        memory=arguments.memory,
        grace_s=arguments.grace,
        kind=arguments.kind,
    )
    if arguments.dry_run:
        print(job.manifest(), end="")
        _say("this manifest would be applied with `kubectl apply -f -`")
        return 0
    _say(job.apply())
    where = f" --namespace {job.namespace}" if job.namespace else ""
    _say(f"`kubectl get pods{where} --selector batch.kubernetes.io/job-name={job.name}` shows its pods")
    _say(f"`kubectl delete {job.kind}{where} {job.name}` ends it; applied again, it continues")
    return 0


def _cluster_run(arguments: argparse.Namespace, config: Config, config_path: str) -> ClusterRun:
    if arguments.force:
        stage = arguments.force[0]
        raise InputError(
            f"--force {stage}: a job that is requeued would force it anew each time; remove the folder of "
            f"{stage} below {arguments.root or 'runs'}/{config.name} instead"
        )
    words = [config_path]
    words += [word for override in arguments.overrides for word in ("--set", override)]
    given = {"--root": arguments.root, "--from": arguments.first, "--until": arguments.last}
    words += [word for flag, value in given.items() if value for word in (flag, value)]
    run = ClusterRun(config, tuple(words), arguments.nodes, arguments.gpus_per_node, arguments.nproc)
    run.refuse_uneven()
    return run


def _within_checkout(config: Path) -> str:
    """A config's path as a pod sees it, from the checkout it starts in.

    Raises:
        InputError: If it lies elsewhere.
    """
    try:
        return str(PurePosixPath(config.resolve().relative_to(LAUNCHER.parent)))
    except ValueError:
        raise InputError(
            f"{config}: lies outside the checkout {LAUNCHER.parent}, where no pod sees it; move it there, "
            "and onto the volume"
        ) from None


def _refuse_unshared(root: str | None, mount: PurePosixPath, checkout: PurePosixPath) -> None:
    runs = checkout / (root or "runs")
    if not runs.is_relative_to(mount) or ".." in runs.parts:
        raise InputError(
            f"runs would go to {runs} in each pod, which is not on the volume mounted at {mount}; give a "
            "--root below it"
        )


def _shown(arguments: argparse.Namespace) -> tuple[str, ...]:
    words = [str(arguments.config), *(word for text in arguments.overrides for word in ("--set", text))]
    return (*words, "--root", arguments.root) if arguments.root else tuple(words)


def _say(line: str) -> None:
    print(f"triptych: {line}", file=sys.stderr)
