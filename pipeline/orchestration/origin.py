"""Which config file a run directory belongs to, so that two configs of one name do not take turns in it."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.orchestration.plan import Step

FILE = "run.json"


@dataclass(frozen=True)
class Origin:
    """The command line that a config came from.

    Attributes:
        config: The file, absolute.
        overrides: Texts `a.b=VALUE`.
        root: As given; None for the default.
        shown: The file as the person wrote it.
    """

    config: str
    overrides: tuple[str, ...] = ()
    root: str | None = None
    shown: str = ""

    def arguments(self) -> str:
        """What to type after a command to mean the same run."""
        words = [self.shown or self.config]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--root", self.root] if self.root else []
        return shlex.join(words)


def write_origin(directory: Path, origin: Origin) -> None:
    """Remember whose the run directory is."""
    write_json(directory / FILE, asdict(origin))


def read_origin(directory: Path) -> Origin | None:
    """Whose the run directory is; None when nobody's, or unreadable (it is only a courtesy)."""
    try:
        values = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return Origin(**(values | {"overrides": tuple(values["overrides"])}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refuse_other_config(directory: Path, origin: Origin, steps: list[Step]) -> None:
    """Refuse to set aside the results of another config file that happens to have the same name.

    Raises:
        InputError: If the directory belongs to another file that still exists, and something
            there would have to run again.
    """
    owner = read_origin(directory)
    if owner is None or owner.config == origin.config or not Path(owner.config).is_file():
        return
    changed = [step for step in steps if step.verb == "run" and " -> " in step.reason]
    if changed:
        raise InputError(
            f"{directory}: holds a run of another config, {owner.config}, which differs from {origin.config} "
            f"({changed[0].reason}); give one of them another `name`, or add --set name=NAME or --root DIR"
        )
