"""`triptych compare`: systems side by side on the same data, as numbers, tables and figures."""

import json
import sys
from pathlib import Path

from PIL import Image

from pipeline.analysis.comparison import Comparison, Entry, compare_systems, comparison_values
from pipeline.analysis.comparison_figure import draw_comparison
from pipeline.analysis.comparison_samples import Shown, draw_systems
from pipeline.analysis.comparison_text import as_markdown, as_text, comparison_tables
from pipeline.analysis.grid import save_png
from pipeline.analysis.scenes_file import SCENES, load_scenes
from pipeline.data.shards.dataset import read_info
from pipeline.durable import write_json, write_text
from pipeline.errors import command_name
from pipeline.orchestration import report
from pipeline.orchestration.compared import VALUES
from pipeline.orchestration.comparison import bring_up_to_date
from pipeline.orchestration.comparison_members import Member, Request, check, members, origin_of, plan_rows
from pipeline.orchestration.ledger import read_record
from pipeline.orchestration.mirror_comparison import PICTURES, TABLE, Comparable, upload_comparison
from pipeline.orchestration.supervisor import UPLOAD_TIMEOUT_S, Launch


def checked(request: Request) -> list[Member]:
    """Every run that the comparison is made of.

    Raises:
        InputError: If any combination cannot be.
    """
    runs = members(request)
    check(request, runs)
    return runs


def show_plan(request: Request, *, as_json: bool) -> int:
    """Only say what would be done."""
    runs = members(request)
    steps = check(request, runs)
    if as_json:
        plans = {name: {step.stage: step.verb for step in plan[:3]} for name, plan in steps.items()}
        print(json.dumps(plans, indent=1))
    else:
        print(report.table(list(plan_rows(runs, steps))))
    return 0


def run(request: Request, runs: list[Member], launch: Launch, *, as_json: bool) -> int:
    """Bring every run up to date, then write and print what they say together.

    Args:
        request: What was asked.
        runs: From `checked`.
        launch: How stages are started.
        as_json: Print `comparison.json` instead of tables.

    Returns:
        The exit code: 0; that of the first run without a result.
    """

    def finish(directory: Path, entries: list[Entry]) -> None:
        comparison = compare_systems(directory.name, entries)
        _write(directory, comparison, request.root)
        _print(directory, comparison, as_json=as_json)
        members = [(member.directory(request.root), member.config) for member in runs]
        root = f" --root {request.given_root}" if request.given_root else ""
        again = f"{command_name()} sync {origin_of(request).arguments()}"
        look = f"{command_name()} ui{root}"
        comparable = Comparable(directory, members, _metrics(comparison), again, look)
        for line in upload_comparison(comparable, UPLOAD_TIMEOUT_S):
            print(line, file=sys.stderr if as_json else sys.stdout)

    return bring_up_to_date(request, runs, launch, finish)


def _write(directory: Path, comparison: Comparison, root: Path) -> None:
    write_json(directory / VALUES, comparison_values(comparison))
    write_text(directory / TABLE, as_markdown(comparison_tables(comparison), comparison.name))
    figure, scenes = (directory / f"{name}.png" for name in PICTURES)
    save_png(figure, draw_comparison(comparison))
    drawn = _scenes(comparison, root)
    if drawn is None:
        scenes.unlink(missing_ok=True)
    else:
        save_png(scenes, drawn)


def _print(directory: Path, comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(comparison_values(comparison), indent=1))
        return
    print(f"\n{comparison.name} in {directory}\n")
    print(as_text(comparison_tables(comparison)))
    print()
    for name in (TABLE, *(f"{stem}.png" for stem in PICTURES), VALUES):
        if (directory / name).exists():
            print(f"  {directory / name}")


def _scenes(comparison: Comparison, root: Path) -> Image.Image | None:
    """What each system makes of the same scenes, of its first seed that has a result."""
    shown: dict[str, Shown] = {}
    datasets: list[str] = []
    for system in comparison.systems:
        done = next((entry for entry in comparison.of(system) if not entry.failure), None)
        path = root / done.run / "evaluate" / SCENES if done else None
        record = read_record(root / done.run / "shard") if done else None
        if record and path and path.is_file():
            shown[system] = load_scenes(path)
            datasets.append(record.outputs["dataset"])
        else:
            shown[system] = "no scenes" if done else "no result"
    return draw_systems(read_info(root / datasets[0]), shown, comparison.name) if datasets else None


def _metrics(comparison: Comparison) -> dict[str, float]:
    """What of each system MLflow shows: the means of the table, and their spread."""
    found: dict[str, float] = {}
    for system in comparison.systems:
        for question in comparison.questions:
            for quantity in question.quantities:
                if summary := comparison.summary(system, quantity.metric):
                    found[f"{system}/{quantity.metric}"] = summary.mean
                    if summary.spread is not None:
                        found[f"{system}/{quantity.metric}_spread"] = summary.spread
    return found
