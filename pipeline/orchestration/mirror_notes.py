"""What MLflow's pages say in words, whose code it was, and the addresses they are found at."""

import hashlib
import subprocess
from pathlib import Path
from urllib.parse import quote

from pipeline.orchestration.mirror_cursor import Cursor
from pipeline.orchestration.mirror_files import peek
from pipeline.orchestration.stage import STAGES, StageName

ENDING = "workflowType=machine_learning"
"""Without it the pages open in the view for language models, which hides metrics and images."""

GROUP_TAG = "triptych.comparison"
"""On a comparison's run and those of its members."""

STAGE_NOTES: dict[StageName, str] = {
    "shard": "Contact sheet and counts: **Model metrics**, or in full size under **Artifacts**, pictures.",
    "train": "Curves: **Model metrics**. The step is the number of samples seen.",
    "evaluate": "Picture grids: **Model metrics**, or in full size under **Artifacts**, pictures.",
    "adapt": "Samples before and after: **Model metrics**, or in full size under **Artifacts**, pictures.",
    "analyze": (
        "Traversals: **Model metrics**, one card per latent; its slider moves the latent from low to high. "
        "All of them on one page: **Artifacts**, traversal/index.html."
    ),
}


def stage_note(stage: StageName) -> str:
    """Where to look on a child run's page; empty if there is nothing to point out."""
    return STAGE_NOTES.get(stage, "")


def parent_note(run_directory: Path, cursor: Cursor) -> tuple[str, str]:
    """The parent run's description in Markdown (links to the stages, headline metrics), and its digest."""
    lines = []
    rows = []
    for stage in STAGES:
        execution = cursor.latest(stage)
        if execution is None or execution.run is None or cursor.experiment is None:
            continue
        record = peek(run_directory / stage)
        shown = "model-metrics" if stage in STAGE_NOTES else ""
        lines.append(f"[{stage}]({_run_page('', cursor.experiment, execution.run, shown)})")
        if record and record.state == "complete":
            rows += [f"| {stage} | {name} | {_number(value)} |" for name, value in record.headline.items()]
    table = ["| stage | metric | value |", "| --- | --- | --- |", *rows] if rows else []
    text = "\n".join([" · ".join(lines), "", *table])
    return text, hashlib.sha256(text.encode()).hexdigest()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"


def links(base: str, name: str, cursor: Cursor) -> dict[str, str]:
    """Addresses of a run's pages by what they show.

    Args:
        base: Where the server answers, such as `http://127.0.0.1:5000`.
        name: The run's name.
        cursor: Its runs on that server.

    Returns:
        `stages` (all its runs in order), `run`, and of the latest executions `dataset`, `training`,
        `pictures` and `traversals`, as far as they exist.
    """
    if cursor.experiment is None or cursor.parent.run is None:
        return {}
    base = base.rstrip("/")
    found = {
        "stages": _runs_page(base, cursor.experiment, name),
        "run": _run_page(base, cursor.experiment, cursor.parent.run, ""),
    }
    pages: tuple[tuple[str, StageName], ...] = (
        ("dataset", "shard"),
        ("training", "train"),
        ("pictures", "evaluate"),
        ("traversals", "analyze"),
    )
    for label, stage in pages:
        execution = cursor.latest(stage)
        if execution and execution.run:
            found[label] = _run_page(base, cursor.experiment, execution.run, "model-metrics")
    return found


def comparison_links(base: str, name: str, cursor: Cursor) -> dict[str, str]:
    """Addresses of a comparison: `systems` (it and its members' runs) and `comparison` (table and figures).

    Args:
        base: Where the server answers.
        name: The comparison's name.
        cursor: Its run on that server.
    """
    if cursor.experiment is None or cursor.parent.run is None:
        return {}
    base = base.rstrip("/")
    return {
        "systems": _runs_page(base, cursor.experiment, name, GROUP_TAG, "triptych.run"),
        "comparison": _run_page(base, cursor.experiment, cursor.parent.run, "model-metrics"),
    }


def _runs_page(
    base: str, experiment: str, name: str, tag: str = "triptych.run", sorted_by: str = "triptych.order"
) -> str:
    """All runs of this name; sorted by a tag, since sorted by time MLflow folds child runs away."""
    wanted = quote(f"tags.`{tag}` = '{name}'")
    order = quote(f"tags.`{sorted_by}`")
    query = f"searchFilter={wanted}&orderByKey={order}&orderByAsc=true&{ENDING}"
    return f"{base}/#/experiments/{experiment}/runs?{query}"


def _run_page(base: str, experiment: str, run: str, tab: str) -> str:
    path = f"{base}/#/experiments/{experiment}/runs/{run}"
    return f"{path}/{tab}?{ENDING}" if tab else f"{path}?{ENDING}"


def origin_tags() -> dict[str, str]:
    """Tags that say whose code made a run."""
    import getpass

    tags = {"mlflow.source.name": "triptych", "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):
        pass
    if commit := _git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _git_commit() -> str | None:
    """Of the checkout this file lies in, marked if it has changes of its own."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
