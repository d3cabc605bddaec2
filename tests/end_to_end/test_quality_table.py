"""The arithmetic of benchmarks/quality.py, which needs none of the peers."""

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality_table import beats, cells, summarise, table


def test_scores_are_averaged_over_seeds_with_the_sample_standard_deviation() -> None:
    (row,) = summarise([
        _result("ours", None, 20.0),
        _result("ours", None, 23.0),
        _result("ours", None, 26.0),
    ])
    assert row["seeds"] == 3
    assert row["cells"]["rgb/rgb_psnr_db"] == {"mean": 23.0, "std": 3.0}


def test_of_several_scales_the_best_counts_cell_by_cell() -> None:
    rows = summarise([
        _result("peer", 0.1, 20.0, absrel=0.03),
        _result("peer", 0.3, 18.0, absrel=0.02),
    ])
    best = rows[-1]
    assert [row["scale"] for row in rows] == [0.1, 0.3, "best"]
    assert best["cells"]["rgb/rgb_psnr_db"]["mean"] == 20.0
    assert best["cells"]["rgb/depth_absrel"]["mean"] == 0.02


def test_a_small_depth_error_beats_a_large_one_and_a_tie_beats_nothing() -> None:
    low, high = {"mean": 0.1, "std": 0.0}, {"mean": 0.2, "std": 0.0}
    assert beats("seg/depth_absrel", low, high)
    assert not beats("seg/depth_absrel", high, low)
    assert beats("seg/seg_miou", high, low)
    assert not beats("seg/seg_miou", low, low)


def test_the_verdict_is_against_the_best_scales_and_names_the_directions_that_are_lost() -> None:
    rows = summarise([
        _result("peer", 0.1, 20.0, absrel=0.03),
        _result("peer", 0.3, 18.0, absrel=0.02),
        _result("ours", None, 21.0, absrel=0.025),
    ])
    (verdict,) = [line for line in table(rows, peers=("peer",)) if "beats" in line]
    lost = ", ".join(cell for cell in cells() if not cell.endswith("rgb_psnr_db"))
    assert verdict == f"ours beats peer in 4 of 12 directions; not in {lost}"


def test_one_seed_has_no_spread() -> None:
    rows = summarise([_result("ours", None, 20.0)])
    assert math.isnan(rows[0]["cells"]["rgb/seg_miou"]["std"])
    assert not [line for line in table(rows, peers=()) if "±" in line or "nan" in line]


def _result(system: str, scale: float | None, psnr: float, absrel: float = 0.1) -> dict[str, Any]:
    metrics = {"rgb_psnr_db": psnr, "depth_absrel": absrel, "seg_miou": 0.5}
    given = {cell.rpartition("/")[0] for cell in cells()}
    return {"system": system, "scale": scale, "metrics": dict.fromkeys(given, metrics)}
