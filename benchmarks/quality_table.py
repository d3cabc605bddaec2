"""What benchmarks/quality.py makes of its results: means and spreads over seeds, and who beats whom."""

import statistics
from collections.abc import Container, Iterable, Sequence
from typing import Any

GIVEN = (("rgb", "depth", "seg"), ("rgb",), ("depth",), ("seg",))
METRICS = {"rgb_psnr_db": "RGB, dB", "depth_absrel": "depth, absrel", "seg_miou": "seg, mIoU"}
HIGHER_IS_BETTER = {"rgb_psnr_db": True, "depth_absrel": False, "seg_miou": True}


def summarise(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every direction, per system and scale.

    Systems with several scales get a row more, `scale` "best": of every cell the scale with the best mean.
    """
    groups: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["system"], result["scale"]), []).append(result)
    rows = [
        {
            "system": system,
            "scale": scale,
            "seeds": len(group),
            "cells": {cell: _spread([_value(result, cell) for result in group]) for cell in cells()},
        }
        for (system, scale), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0))
    ]
    for system in dict.fromkeys(row["system"] for row in rows):
        scaled = [row for row in rows if row["system"] == system]
        if len(scaled) > 1:
            best = {cell: best_of(cell, [row["cells"][cell] for row in scaled]) for cell in cells()}
            seeds = min(row["seeds"] for row in scaled)
            after = rows.index(scaled[-1]) + 1
            rows.insert(after, {"system": system, "scale": "best", "seeds": seeds, "cells": best})
    return rows


def table(rows: Sequence[dict[str, Any]], peers: Container[str]) -> list[str]:
    """A block per system and scale, then in how many directions each of ours beats each peer.

    Args:
        rows: What `summarise` returned.
        peers: Which systems are not ours.
    """
    lines = []
    for row in rows:
        scale = "" if row["scale"] is None else f", scale {row['scale']}"
        lines.append(f"\n{row['system']}{scale}: mean and standard deviation over {row['seeds']} seeds")
        lines.append(f"{'given':16}" + "".join(f"{label:>18}" for label in METRICS.values()))
        for given in GIVEN:
            name = "+".join(given)
            texts = [_text(metric, row["cells"][f"{name}/{metric}"]) for metric in METRICS]
            lines.append(f"{name:16}" + "".join(f"{text:>18}" for text in texts))
    lines.append("")
    for ours in (row for row in rows if row["system"] not in peers):
        for other in strongest(row for row in rows if row["system"] in peers):
            lost = [cell for cell in cells() if not beats(cell, ours["cells"][cell], other["cells"][cell])]
            won = f"{len(cells()) - len(lost)} of {len(cells())} directions"
            but = f"; not in {', '.join(lost)}" if lost else ""
            lines.append(f"{ours['system']} beats {other['system']} in {won}{but}")
    return lines


def strongest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per system: that of its best scales, or its only one."""
    return list({row["system"]: row for row in rows}.values())


def cells() -> list[str]:
    """All directions, as `rgb/seg_miou`."""
    return [f"{'+'.join(given)}/{metric}" for given in GIVEN for metric in METRICS]


def beats(cell: str, ours: dict[str, float], other: dict[str, float]) -> bool:
    """Whether a mean is strictly the better one."""
    if HIGHER_IS_BETTER[cell.rpartition("/")[2]]:
        return ours["mean"] > other["mean"]
    return ours["mean"] < other["mean"]


def best_of(cell: str, candidates: Sequence[dict[str, float]]) -> dict[str, float]:
    """The candidate with the best mean, the first of equals."""
    best = candidates[0]
    for candidate in candidates[1:]:
        best = candidate if beats(cell, candidate, best) else best
    return best


def _value(result: dict[str, Any], cell: str) -> float:
    given, _, metric = cell.rpartition("/")
    return float(result["metrics"][given][metric])


def _spread(values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return {"mean": statistics.fmean(values), "std": deviation}


def _text(metric: str, cell: dict[str, float]) -> str:
    digits = 2 if metric == "rgb_psnr_db" else 4
    spread = "" if cell["std"] != cell["std"] else f" ± {cell['std']:.{digits}f}"
    return f"{cell['mean']:.{digits}f}{spread}"
