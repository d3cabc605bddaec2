"""What the supervisor asks a worker to do: a file, so that every process of a stage reads the same."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.durable import write_json
from pipeline.orchestration.ledger import Place, Record


@dataclass(frozen=True)
class Job:
    """One stage of one run.

    Attributes:
        config: The resolved config.
        root: The directory all runs live under.
        place: Where the stage works and ends.
        record: What is recorded of it so far.
        inputs: Name to directory of the results it reads.
        progress_file: Where it says how far it is.
    """

    config: dict[str, Any]
    root: Path
    place: Place
    record: Record
    inputs: dict[str, Path]
    progress_file: Path


_JOB = TypeAdapter(Job)


def write_job(path: Path, job: Job) -> None:
    """Write a job file."""
    write_json(path, _JOB.dump_python(job, mode="json"))


def read_job(path: Path) -> Job:
    """Read a job file back."""
    return _JOB.validate_json(path.read_bytes())


def relocated(job: Job, root: Path) -> Job:
    """The same job on a machine that sees the same disk under another path."""

    def here(path: Path) -> Path:
        return root / path.relative_to(job.root)

    place = Place(here(job.place.home), here(job.place.final), here(job.place.working))
    inputs = {name: here(path) for name, path in job.inputs.items()}
    return replace(job, root=root, place=place, inputs=inputs, progress_file=here(job.progress_file))
