"""The `triptych` command: what a person may type, and what they are told when it cannot be done.

Nothing heavy is imported before a command needs it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pipeline
from pipeline.errors import InputError, Interrupted, as_input_error, command_name

CHECKOUT = Path(__file__).resolve().parents[1]

STAGE_HELP = {
    "shard": "render or read the data into a dataset directory",
    "train": "train the model; continues where it was interrupted",
    "evaluate": "score every translation between modalities on the test split",
    "adapt": "learn a held-out value or class from a few examples",
    "analyze": "traverse every latent, measure what it means, write a page",
    "synthesize": "write a labelled dataset drawn from the model",
}

GROUPS = {
    "start here": {
        "demo": "the whole pipeline on built-in scenes, in a few minutes",
        "test": "check the code and run the tests",
        "doctor": "what this machine offers, and what to set",
    },
    "a run": {
        "run": "bring every stage up to date (`local` is another word for it)",
        "multinode": "the same on several machines; every one is given this command",
        "plan": "what would run, and why",
        "status": "how far it is, and what to type next",
        "clean": "remove superseded results",
        "compare": "train several systems on the same data and put them side by side",
        "config": "the resolved config; --help-fields explains every field",
    },
    "on many machines": {
        "slurm": "submit it as a SLURM job that is requeued until it is done",
        "k8s": "submit it as a Kubernetes Job, or as a TrainJob of Kubeflow",
    },
    "one stage of it": STAGE_HELP,
    "look at it": {
        "inspect": "what a dataset holds: counts, classes, depth, what was refused, pictures",
        "ui": "open MLflow on this machine",
        "sync": "upload to MLflow what an outage delayed",
    },
}

CLUSTERS = ("slurm", "k8s")

RUNS = ("demo", "run", "multinode")
"""Commands that do every stage."""

HELP = {name: text for group in GROUPS.values() for name, text in group.items()}

EXAMPLES = """\
examples:
  {command} demo
  {command} run configs/rooms.yaml --set train.samples=200000
  {command} plan configs/rooms.yaml --set model.latent=64
  {command} run configs/tools.yaml --set data.source.root=~/captures
  {command} status configs/tools.yaml --json
  {command} compare configs/demo.yaml --systems ae,vae,vaegan
  {command} inspect configs/rooms.yaml --output pictures
  {command} slurm configs/rooms.yaml --nodes 4 --gpus-per-node 8 --dry-run

Results go to runs/NAME/STAGE/ (--root moves runs/). The same command again continues or skips.
Exit codes: 0 done, 1 failed, 2 something to put right (one message says what), 75 stopped and saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input, 75 stopped and saved.

    Raises:
        OSError: What the system refuses for a reason that no person can put right.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _refuse_shadowed()
        return _main(words)
    except Interrupted:
        _complain("interrupted; what is done is saved. Run the same command again to continue")
        return 75
    except KeyboardInterrupt:
        _complain("interrupted")
        return 75
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return 0
    except InputError as error:
        _complain(str(error))
        return 2
    except OSError as error:
        refused = as_input_error(error)
        if refused is None:
            raise
        _complain(str(refused))
        return 2


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"triptych {_version()}")
        return 0
    if words[0] == "test":
        os.execv(CHECKOUT / "launch.sh", ["launch.sh", *words])
    if words[0] == "local":
        words = ["run", *words[1:]]
    if words[0] not in HELP:
        raise InputError(
            f"{words[0]}: no such command{_hint(words[0], HELP)}; `{command_name()} --help` lists them"
        )
    parser = _parser(words[0])
    arguments, unknown = parser.parse_known_args(words[1:])
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise InputError(
            f"{words[0]}: unknown argument {unknown[0]}{_hint(unknown[0], known)}; "
            f"`{command_name()} {words[0]} --help` lists them"
        )
    from stages import commands

    call: Callable[[argparse.Namespace], int] = getattr(commands, _function(words[0]))
    return call(arguments)


def _function(command: str) -> str:
    return "stage" if command in STAGE_HELP else "fields_or_config" if command == "config" else command


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{command_name()} {command}",
        description=HELP[command][0].upper() + HELP[command][1:] + ".",
        allow_abbrev=False,
    )
    parser.set_defaults(command=command)
    if command == "demo":
        parser.set_defaults(config=CHECKOUT / "configs" / "demo.yaml")
    elif command == "inspect":
        parser.add_argument(
            "dataset",
            metavar="DATASET",
            type=Path,
            help="a dataset directory, or a CONFIG whose dataset is there",
        )
    elif command != "doctor":
        optional = command in ("config", "ui")
        nargs = "?" if optional else None
        parser.add_argument(
            "config", metavar="CONFIG", type=Path, nargs=nargs, help="a YAML file, see configs/"
        )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a value of the config, as in train.samples=2000; may be repeated",
    )
    parser.add_argument("--root", metavar="DIR", help="where runs and datasets lie (default: runs)")
    if command == "compare":
        _add_compare_flags(parser)
    _add_flags(parser, command)
    if command in CLUSTERS:
        from stages import cluster

        _add_processes(parser)
        cluster.add_flags(parser, command, _positive)
    return parser


def _add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    if command in (*RUNS, "plan", *CLUSTERS):
        parser.add_argument("--from", metavar="STAGE", dest="first", help="leave out the stages before")
        parser.add_argument("--until", metavar="STAGE", dest="last", help="leave out the stages after")
    if command in (*RUNS, "plan", *STAGE_HELP):
        parser.add_argument(
            "--force",
            metavar="STAGE",
            action="append",
            default=[],
            help="run it although it is done; may be repeated",
        )
    if command in (*RUNS, *STAGE_HELP):
        _add_processes(parser)
        parser.add_argument("--wait", action="store_true", help="wait for another run of the same name")
    if command in (*RUNS, "shard", *CLUSTERS):
        parser.add_argument(
            "--strict",
            action="append_const",
            const="data.strict=true",
            dest="overrides",
            help="stop at the first sample that cannot be used, instead of leaving it out",
        )
    if command in (*RUNS, "clean", "compare", *STAGE_HELP, *CLUSTERS):
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    if command in ("status", "inspect", "compare"):
        parser.add_argument("--json", action="store_true", help="for programs")
    if command == "inspect":
        parser.add_argument("--output", metavar="DIR", type=Path, help="draw pictures into this directory")
        parser.add_argument(
            "--limit",
            metavar="N",
            type=_positive,
            help="samples to look at for classes and depth (default: 2000)",
        )
    if command == "ui":
        parser.add_argument(
            "--port", metavar="N", type=_port, help="where to serve (default: the first free one from 5000)"
        )
    if command == "config":
        parser.add_argument("--help-fields", action="store_true", help="every field: type, default, meaning")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nproc",
        metavar="N",
        type=_positive,
        help="processes that share a stage on each machine (default: one per GPU, else 1)",
    )


def _add_compare_flags(parser: argparse.ArgumentParser) -> None:
    _add_processes(parser)
    parser.set_defaults(wait=False)
    parser.add_argument(
        "--systems",
        metavar="A,B,...",
        required=True,
        help="presets of configs/systems, or YAML files with the values that make a system",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=_positive,
        default=3,
        help="runs per system, with the config's seed and those after it (default: 3)",
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; ports are 1 to 65535")
    return number


def _overview() -> str:
    width = max(map(len, HELP))
    lines = [f"usage: {command_name()} COMMAND [CONFIG] [FLAGS]", "", pipeline.__doc__ or ""]
    for group, members in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:<{width}}  {text}" for name, text in members.items())]
    return "\n".join([*lines, "", f"`{command_name()} COMMAND --help` explains its flags.", "", _examples()])


def _examples() -> str:
    return EXAMPLES.format(command=command_name()).rstrip()


def _version() -> str:
    from importlib.metadata import version

    return version("triptych")


def _hint(word: str, known: Sequence[str] | dict[str, str]) -> str:
    word = word.partition("=")[0]
    longer = [name for name in known if name.startswith(word)]
    near = longer or get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _refuse_shadowed() -> None:
    """The top-level names are plain, so another package may stand in front of ours.

    Raises:
        InputError: If one does.
    """
    found = Path(pipeline.__file__ or "").resolve().parent
    if found != CHECKOUT / "pipeline":
        raise InputError(
            f"another package named `pipeline` ({found}) hides triptych's ({CHECKOUT / 'pipeline'}); "
            "take it out of PYTHONPATH or use the checkout's own environment through launch.sh"
        )


def _complain(message: str) -> None:
    print(f"triptych: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
