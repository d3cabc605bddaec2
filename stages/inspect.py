"""`triptych inspect`: a dataset at a glance, as text, as numbers for programs, and as pictures."""

import json
import sys
from pathlib import Path

from pipeline.analysis.dataset import survey, survey_json
from pipeline.analysis.dataset_pictures import draw_survey
from pipeline.analysis.dataset_text import survey_text
from pipeline.orchestration.progress import Progress

LIMIT = 2000
"""Samples that are looked at, unless a person asks for more."""


def run(dataset: Path, *, output: Path | None, as_json: bool, limit: int | None) -> int:
    """Say what a dataset directory holds.

    Args:
        dataset: The directory.
        output: Where pictures go; None: draws none.
        as_json: For programs.
        limit: Samples that are looked at.

    Returns:
        The exit code: 0; 1 when a part of the dataset is damaged, which is said.

    Raises:
        InputError: If there is no dataset, or its index is damaged.
    """
    with Progress("inspect") as progress:
        found = survey(dataset, limit or LIMIT, progress)
        written = [] if output is None else draw_survey(found, output)
    if as_json:
        print(json.dumps(survey_json(found), indent=1, ensure_ascii=False))
    else:
        _print("\n".join(["", survey_text(found), *(["", *map(str, written)] if written else [])]))
    return 1 if found.damage else 0


def _print(text: str) -> None:
    """Also where the terminal knows no block characters."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = str.maketrans(dict.fromkeys("▏▎▍▌▋▊▉█", "#") | {"…": "..."})
        text = text.translate(plain).encode(encoding, "replace").decode(encoding)
    print(text)
