"""What can be refused only when all samples are known: copies across splits, and another unit of depth."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from pipeline.data.modality import SPLITS
from pipeline.data.refusal import Refusal
from pipeline.data.shards.alike import alike_elsewhere, beyond_a_gap, equal_elsewhere, rank_of
from pipeline.data.shards.survey import Survey

Duplicates = Literal["exact", "perceptual", "off"]

GAP = 8.0
"""Typical depths of one set have no gap of this factor; another unit begins beyond it."""

NEAREST_PLAUSIBLE_M, FARTHEST_PLAUSIBLE_M = 0.1, 100.0
"""A typical depth outside suggests a wrong unit."""

UNIT_CHANGE, DUPLICATE = "unit_change", "duplicate_across_splits"

_NO_UNIT_CHANGE = (
    "store all depth in the same unit; if both are right, make two datasets (train.mix trains on both)"
)


@dataclass(frozen=True)
class Late:
    """What became of the samples when all were known.

    Attributes:
        refused: Which rows of the survey are refused.
        off_unit: Those of them whose depth has another unit.
        twin: For every row the row that it repeats, or -1.
        typical_m: Typical depth of most samples; NaN without depth.
        notes: What a person should know, one line each.
    """

    refused: Bool[np.ndarray, " row"]
    off_unit: Bool[np.ndarray, " row"]
    twin: Int64[np.ndarray, " row"]
    typical_m: float
    notes: tuple[str, ...]


def judge(survey: Survey, duplicates: Duplicates, *, rendered: bool) -> Late:
    """Refuse what can only be told over the whole set.

    Args:
        survey: All samples.
        duplicates: Which copies are refused.
        rendered: The scenes were made by us, so nothing is to be suspected.
    """
    nothing = np.zeros(len(survey.split), bool)
    twin = np.full(len(survey.split), -1, np.int64)
    if rendered:
        return Late(nothing, nothing, twin, float("nan"), ())
    off_unit = beyond_a_gap(survey.depth_median_m, GAP)
    rank = rank_of(survey.split)
    alike = nothing
    if duplicates != "off":
        twin = equal_elsewhere(survey.content, rank)
        twin[~survey.pictured] = -1
        near = alike_elsewhere(survey.look, rank)
        alike = (near >= 0) & (twin < 0)
        if duplicates == "perceptual":
            twin = np.where(alike, near, twin)
    known = survey.depth_median_m[~off_unit & ~np.isnan(survey.depth_median_m)]
    typical_m = float(np.median(known)) if len(known) else float("nan")
    notes = []
    if duplicates == "exact" and alike.any():
        notes.append(_alike_note(survey, np.flatnonzero(alike), near))
    if len(known) and not NEAREST_PLAUSIBLE_M <= typical_m <= FARTHEST_PLAUSIBLE_M:
        notes.append(f"warning: depth is typically {typical_m:.3g} m; is the unit of depth right?")
    return Late(off_unit | (twin >= 0), off_unit, twin, typical_m, tuple(notes))


def _alike_note(survey: Survey, rows: Int64[np.ndarray, " some"], near: Int64[np.ndarray, " row"]) -> str:
    """One line about samples that look almost like one of another split."""
    pair = [int(rows[0]), int(near[rows[0]])]
    keys = survey.keys(np.array(pair))
    one, other = (f"{keys[row]} ({SPLITS[survey.split[row]]})" for row in pair)
    return (
        f"warning: {len(rows)} samples look almost like one of another split, such as {one} and {other}; "
        "for video set data.block to some seconds of frames, or refuse them with data.duplicates: perceptual"
    )


def refusal_of(row: int, origin: str, survey: Survey, late: Late, keys: dict[int, str]) -> Refusal:
    """Why a row was refused.

    Args:
        row: Its number in the survey.
        origin: What the source calls it.
        survey: All samples.
        late: What became of them.
        keys: Of the samples that others repeat.
    """
    split = SPLITS[survey.split[row]]
    if late.off_unit[row]:
        typical_m = float(survey.depth_median_m[row])
        detail = f"depth is typically {typical_m:.3g} m, that of most samples {late.typical_m:.3g} m"
        return Refusal(origin, UNIT_CHANGE, detail, _NO_UNIT_CHANGE, split)
    twin = int(late.twin[row])
    same = survey.content[twin] == survey.content[row]
    return Refusal(
        origin,
        DUPLICATE,
        f"{'the same pictures as' if same else 'looks like'} {keys[twin]} in {SPLITS[survey.split[twin]]}",
        "keep one of them, or put both into the same split",
        split,
    )
