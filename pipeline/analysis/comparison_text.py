"""The tables of a comparison, with footnotes, for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pipeline.analysis.comparison import (
    Comparison,
    Quantity,
    Question,
    leaders,
    missing_reason,
)
from pipeline.config import Config
from pipeline.config.system import posterior_kind

DASH = "\N{EN DASH}"
DIGITS, MOST_DECIMALS = 3, 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"

FITTED = {
    "aggregate": "one Gaussian",
    "gmm": "a mixture of Gaussians",
    "flow": "a normalising flow",
}

ARROWS = {
    "higher": "\N{UPWARDS ARROW}",
    "lower": "\N{DOWNWARDS ARROW}",
    "one": "\N{RIGHTWARDS ARROW}1",
    "half": "\N{RIGHTWARDS ARROW}0.5",
}
ARROW_NOTE = (
    "\N{UPWARDS ARROW} more is better, \N{DOWNWARDS ARROW} less, \N{RIGHTWARDS ARROW} as near as can be"
)


@dataclass(frozen=True)
class Cell:
    """One number, or a dash.

    Attributes:
        text: `0.95 ±0.01`.
        leads: Whether no other system is better beyond the noise of seeds.
        note: The letter of the footnote that says why there is no number.
    """

    text: str
    leads: bool = False
    note: str = ""


@dataclass(frozen=True)
class Block:
    """The table that answers one question: a row per system.

    Attributes:
        title: The question.
        heading: Titles of the columns.
        rows: Name of the system or reference, and a cell per column.
    """

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Tables:
    """Everything a person reads.

    Attributes:
        blocks: A table per question.
        footnotes: Letter to why a number is missing or not of every seed.
        notes: What holds for all of it.
    """

    blocks: tuple[Block, ...]
    footnotes: dict[str, str]
    notes: tuple[str, ...]


def comparison_tables(comparison: Comparison) -> Tables:
    """Lay a comparison out."""
    letters: dict[str, str] = {}
    labels = {system: system + _mark(comparison, system, letters) for system in comparison.systems}
    blocks = tuple(_block(comparison, question, labels, letters) for question in comparison.questions)
    return Tables(blocks, {letter: reason for reason, letter in letters.items()}, general_notes(comparison))


def decimals(values: Sequence[float]) -> int:
    """Digits after the point that give the typical value of a column three in all."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 0
    return min(max(DIGITS - 1 - math.floor(math.log10(median(sizes))), 0), MOST_DECIMALS)


def as_text(tables: Tables) -> str:
    """For a terminal; `*` marks those that lead."""
    parts = []
    for block in tables.blocks:
        rows = [("system", *block.heading)]
        rows += [(name, *(_plain(cell) for cell in cells)) for name, cells in block.rows]
        parts.append(f"{block.title}\n{_columns(rows)}")
    notes = [f"  {letter}  {reason}" for letter, reason in tables.footnotes.items()]
    return "\n".join(["\n\n".join(parts), "", *notes, *(f"  {note}" for note in tables.notes)])


def as_markdown(tables: Tables, title: str) -> str:
    """`table.md`; those that lead are bold."""
    lines = [f"# {title}", ""]
    for block in tables.blocks:
        lines += [f"## {block.title}", "", f"| system | {' | '.join(block.heading)} |"]
        lines.append(f"|---|{'---:|' * len(block.heading)}")
        lines += [f"| {name} | {' | '.join(map(_marked, cells))} |" for name, cells in block.rows]
        lines.append("")
    lines += [f"- {letter}: {reason}." for letter, reason in tables.footnotes.items()]
    return "\n".join([*lines, *(f"- {note.replace('*', 'bold', 1)}" for note in tables.notes)]) + "\n"


def number_text(value: float, spread: float | None, places: int) -> str:
    """A mean and its spread with as many decimals."""
    spread_text = "" if spread is None else f" ±{spread:,.{places}f}"
    return f"{value:,.{places}f}{spread_text}"


def title_of(quantity: Quantity) -> str:
    """A column's title and which values are good."""
    return f"{quantity.title} {ARROWS.get(quantity.better, '')}".strip()


def _block(
    comparison: Comparison, question: Question, labels: dict[str, str], letters: dict[str, str]
) -> Block:
    columns = [_column(comparison, quantity, letters) for quantity in question.quantities]
    names = [*labels.values()]
    if any(column[-1].text for column in columns):
        names.append(next(quantity.reference_title for quantity in question.quantities))
    rows = tuple((name, tuple(column[row] for column in columns)) for row, name in enumerate(names))
    return Block(question.title, tuple(title_of(quantity) for quantity in question.quantities), rows)


def _column(comparison: Comparison, quantity: Quantity, letters: dict[str, str]) -> list[Cell]:
    found = {system: comparison.summary(system, quantity.metric) for system in comparison.systems}
    places = decimals([summary.mean for summary in found.values() if summary])
    best = leaders(comparison, quantity)
    cells = []
    for system, summary in found.items():
        if summary is None:
            reason = missing_reason(comparison, system, quantity)
            cells.append(Cell(DASH, note=_letter(reason, letters)))
        else:
            cells.append(Cell(number_text(summary.mean, summary.spread, places), system in best))
    reference = comparison.reference(quantity)
    return [*cells, Cell("" if reference is None else number_text(reference, None, places))]


def partly_failed(comparison: Comparison, system: str) -> str:
    """Which seeds of a system have no result, and why; empty if all have, or none."""
    runs = comparison.of(system)
    failed = [entry for entry in runs if entry.failure]
    if not failed or len(failed) == len(runs):
        return ""
    seeds = ", ".join(str(entry.seed) for entry in failed)
    return f"without seed {seeds} ({failed[0].failure})"


def _mark(comparison: Comparison, system: str, letters: dict[str, str]) -> str:
    reason = partly_failed(comparison, system)
    return f" ({_letter(reason, letters)})" if reason else ""


def _letter(reason: str, letters: dict[str, str]) -> str:
    count = len(letters)
    rounds, place = divmod(count, len(LETTERS))
    return letters.setdefault(reason, LETTERS[place] * (rounds + 1))


def general_notes(comparison: Comparison) -> tuple[str, ...]:
    """What holds for all numbers, and what each system's generated scenes are drawn from."""
    seeds = comparison.seeds
    first = comparison.entries[0].config
    budget = f"{first.train.samples:,} training samples"
    what = f"Mean of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"Seed {seeds[0]} alone"
    spread = ", ± standard deviation" if len(seeds) > 1 else ""
    marks = (
        "*: not worse than the best by more than two standard errors"
        if len(seeds) > 1
        else "*: the best; what another seed would change is not known"
    )
    drawn: dict[str, list[str]] = {}
    for system in comparison.systems:
        drawn.setdefault(_drawn_from(comparison.of(system)[0].config), []).append(system)
    return (
        f"{what}{spread}; {budget} each. {marks}. {ARROW_NOTE}.",
        *(f"{', '.join(systems)}: {text}." for text, systems in drawn.items()),
    )


def _drawn_from(config: Config) -> str:
    """What generated scenes are drawn from, and whether training held the codes to it."""
    if posterior_kind(config.model, config.objective) == "none":
        return (
            "scenes drawn from N(0, I), as in training; there are no encoders, so codes of real scenes are "
            f"found by inversion, of at most {config.evaluate.inversion_samples} test scenes"
        )
    kind = config.evaluate.prior
    free = config.objective.regulariser.kind == "none"
    if kind == "training":
        drawn = (
            "what training holds codes to" if not free else "N(0, I), which training does not hold codes to"
        )
        return f"scenes drawn from {drawn}"
    text = f"scenes drawn from {FITTED[kind]} fitted to the codes of training scenes"
    return text + ("; training itself holds codes to no prior" if free else "")


def _plain(cell: Cell) -> str:
    return f"{cell.text}{'*' if cell.leads else ''}{' ' + cell.note if cell.note else ''}"


def _marked(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.leads else cell.text
    return f"{text} ({cell.note})" if cell.note else text


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Names to the left, numbers to the right of their columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    rule = f"  {'  '.join('-' * width for width in widths)}"
    return "\n".join([lines[0], rule, *lines[1:]])
