"""Numbers, tables and figures of systems side by side, on made-up measurements."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.comparison import (
    SEED_SPREAD,
    TRAIN_SECONDS,
    Comparison,
    Entry,
    Quantity,
    compare_systems,
    comparison_values,
    leaders,
    missing_reason,
)
from pipeline.analysis.comparison_figure import axis_of, draw_comparison
from pipeline.analysis.comparison_samples import draw_systems, shown_scenes
from pipeline.analysis.comparison_text import (
    DASH,
    as_markdown,
    as_text,
    comparison_tables,
    decimals,
    number_text,
)
from pipeline.analysis.scenes_file import load_scenes, save_scenes
from pipeline.analysis.views import Views
from pipeline.config import Config, load_config
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.errors import InputError

PRESETS = Path(__file__).parents[2] / "configs" / "systems"
ALL, PSNR, COVERAGE = "rgb+depth+seg", "rgb+depth+seg/rgb_psnr_db", "prior/coverage"


def config_of(system: str, tmp_path: Path, **evaluate: object) -> Config:
    path = tmp_path / "base.yaml"
    path.write_text("name: made-up\ndata: {source: {kind: rooms}}\n")
    overrides = [f"evaluate.{name}={value}" for name, value in evaluate.items()]
    return load_config(path, overrides, [PRESETS / f"{system}.yaml"])


def measured(psnr: float, coverage: float | None = None, **more: float) -> dict[str, float]:
    found = {PSNR: psnr, "rgb/depth_absrel": 0.05, "constant/rgb_psnr_db": 14.0, **more}
    return found if coverage is None else found | {COVERAGE: coverage, "real/coverage": 0.97}


@pytest.fixture
def made_up(tmp_path: Path) -> Comparison:
    values: Mapping[tuple[str, int], dict[str, float]] = {
        ("vae", 0): measured(20.0, 0.9, **{f"{ALL}/nll_nats": 14_000.0, TRAIN_SECONDS: 100.0}),
        ("vae", 1): measured(22.0, 0.8, **{f"{ALL}/nll_nats": 14_200.0, TRAIN_SECONDS: 140.0}),
        ("gan", 0): measured(10.0, 0.3),
        ("gan", 1): {},
        ("ae", 0): measured(24.0),
        ("ae", 1): measured(24.2),
    }
    entries = [
        Entry(
            system,
            seed,
            f"made-up-{system}-s{seed}",
            config_of(system, tmp_path),
            metrics,
            "" if metrics else "train failed: FloatingPointError: loss is nan at 3,200 samples",
        )
        for (system, seed), metrics in values.items()
    ]
    return compare_systems("made-up-compare", entries)


def quantity(comparison: Comparison, metric: str) -> Quantity:
    return next(q for question in comparison.questions for q in question.quantities if q.metric == metric)


def test_mean_and_spread_over_seeds_are_those_of_the_sample(made_up: Comparison) -> None:
    summary = made_up.summary("vae", PSNR)
    assert summary is not None
    assert summary.mean == pytest.approx(21.0)
    assert summary.spread == pytest.approx(2.0**0.5)
    assert summary.values == {0: 20.0, 1: 22.0}


def test_one_seed_has_no_spread(made_up: Comparison) -> None:
    summary = made_up.summary("gan", PSNR)
    assert summary is not None
    assert summary.spread is None


def test_systems_keep_the_order_they_were_asked_for_in(made_up: Comparison) -> None:
    assert made_up.systems == ("vae", "gan", "ae")


def test_seed_spread_is_the_share_of_the_differences_between_systems(made_up: Comparison) -> None:
    summary = made_up.summary("vae", SEED_SPREAD)
    assert summary is not None
    psnr = 2.0**0.5 / (24.1 - 10.0)
    coverage = (0.05 * 2.0**0.5) / (0.85 - 0.3)
    assert summary.mean == pytest.approx(100 * (psnr + coverage) / 2)


def test_failed_seed_leaves_no_seed_spread_to_boast_of(made_up: Comparison) -> None:
    assert made_up.summary("gan", SEED_SPREAD) is None
    assert "not every seed" in missing_reason(made_up, "gan", quantity(made_up, SEED_SPREAD))


@pytest.mark.parametrize(
    ("first", "second", "leading"),
    [
        ((20.0, 20.2), (24.0, 24.2), {"vae"}),
        ((20.0, 24.0), (22.0, 26.0), {"ae", "vae"}),  # 2 apart, standard error 2.8
        ((20.0, 24.0), (27.0, 31.0), {"vae"}),  # 7 apart
        ((20.0, 21.0), (22.0, 23.0), {"vae"}),  # 2 apart, standard error 0.7
    ],
)
def test_leaders_are_those_that_the_noise_of_seeds_does_not_tell_apart(
    tmp_path: Path, first: tuple[float, float], second: tuple[float, float], leading: set[str]
) -> None:
    entries = [
        Entry(system, seed, f"{system}{seed}", config_of(system, tmp_path), measured(value))
        for system, values in (("ae", first), ("vae", second))
        for seed, value in enumerate(values)
    ]
    compared = compare_systems("x", entries)
    assert leaders(compared, quantity(compared, PSNR)) == leading


def test_nearest_to_one_leads_where_one_is_real(tmp_path: Path) -> None:
    entries = [
        Entry(system, 0, system, config_of(system, tmp_path), {**measured(20.0), "prior/sharpness": value})
        for system, value in (("ae", 0.8), ("vae", 1.1), ("gan", 1.3))
    ]
    compared = compare_systems("x", entries)
    assert leaders(compared, quantity(compared, "prior/sharpness")) == {"vae"}


def test_copying_no_more_than_chance_leads(tmp_path: Path) -> None:
    entries = [
        Entry(system, 0, system, config_of(system, tmp_path), {**measured(20.0), "prior/memorisation": value})
        for system, value in (("ae", 0.9), ("vae", 0.52), ("gan", 0.4))
    ]
    compared = compare_systems("x", entries)
    assert leaders(compared, quantity(compared, "prior/memorisation")) == {"vae"}


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ("ae", "codes are points"),
        ("wae", "codes are points"),
        ("gan", "a generator alone"),
        ("avb", "can be drawn from but has no density"),
    ],
)
def test_reason_of_a_missing_likelihood_follows_from_the_system(
    tmp_path: Path, system: str, reason: str
) -> None:
    compared = compare_systems("x", [Entry(system, 0, "x", config_of(system, tmp_path), measured(20.0))])
    assert reason in missing_reason(compared, system, quantity(compared, f"{ALL}/nll_nats"))


def test_reason_names_what_was_switched_off(tmp_path: Path) -> None:
    config = config_of("vae", tmp_path, generated=0, nll_samples=0)
    compared = compare_systems("x", [Entry("vae", 0, "x", config, measured(20.0))])
    assert "evaluate.generated is 0, too few" in missing_reason(compared, "vae", quantity(compared, COVERAGE))
    assert "evaluate.nll_samples is 0" in missing_reason(
        compared, "vae", quantity(compared, f"{ALL}/nll_nats")
    )


def test_values_hold_every_metric_of_every_run_and_why_others_are_missing(made_up: Comparison) -> None:
    values = comparison_values(made_up)
    assert values["runs"]["made-up-vae-s1"]["metrics"]["constant/rgb_psnr_db"] == 14.0
    assert values["runs"]["made-up-gan-s1"]["failure"].startswith("train failed")
    assert values["systems"]["vae"]["mean"][COVERAGE] == pytest.approx(0.85)
    assert values["systems"]["vae"]["spread"][COVERAGE] == pytest.approx(0.05 * 2**0.5)
    assert "prior/kid" in values["systems"]["vae"]["missing"]
    assert COVERAGE not in values["systems"]["vae"]["missing"]


def test_table_says_number_spread_reference_and_reason(made_up: Comparison) -> None:
    text = as_text(comparison_tables(made_up))
    assert "21.0 ±1.4" in text
    assert "24.1 ±0.1*" in text
    constant = next(line for line in text.splitlines() if "constant scene" in line)
    assert constant.split()[2] == "14.0"
    assert "no likelihood: codes are points, which have no density" in text
    assert "without seed 1 (train failed: FloatingPointError: loss is nan at 3,200 samples)" in text
    assert "training itself holds codes to no prior" in text
    assert "codes of real scenes are found by inversion" in text


def test_every_dash_has_a_footnote(made_up: Comparison) -> None:
    tables = comparison_tables(made_up)
    dashes = [
        cell for block in tables.blocks for _, cells in block.rows for cell in cells if cell.text == DASH
    ]
    assert dashes
    assert all(cell.note in tables.footnotes for cell in dashes)


def test_markdown_has_as_many_cells_in_every_row(made_up: Comparison) -> None:
    lines = as_markdown(comparison_tables(made_up), "made-up-compare").splitlines()
    for block in "\n".join(lines).split("## ")[1:]:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
    assert any("**24.1 ±0.1**" in line for line in lines)


@pytest.mark.parametrize(
    ("values", "places"),
    [([23.4, 19.0], 1), ([0.0187], 4), ([0.958], 3), ([14_000.0], 0), ([1e-9], 5), ([], 0)],
)
def test_numbers_have_three_digits(values: list[float], places: int) -> None:
    assert decimals(values) == places


def test_spread_has_as_many_decimals_as_its_mean() -> None:
    assert number_text(14021.4, 44.2, 0) == "14,021 ±44"
    assert number_text(0.0204, None, 4) == "0.0204"


def test_axis_is_logarithmic_only_where_ratios_are_large_and_all_positive() -> None:
    assert axis_of([1.0, 100.0]).is_log
    assert not axis_of([10.0, 100.0]).is_log
    assert not axis_of([0.0, 100.0]).is_log
    axis = axis_of([1.0, 100.0])
    assert axis.share(10.0) == pytest.approx(0.5)
    assert 0.0 < axis.share(1.0) < axis.share(100.0) < 1.0
    assert axis_of([3.0, 3.0]).share(3.0) == pytest.approx(0.5)


@pytest.mark.parametrize("axis", [axis_of([13_900.0, 14_300.0]), axis_of([0.0001, 5.0]), axis_of([0.0, 1.0])])
def test_labels_of_an_axis_do_not_touch(axis: object) -> None:
    from pipeline.analysis.comparison_figure import Axis, _tick_text
    from pipeline.analysis.lettering import NOTE_PX, font, text_width

    assert isinstance(axis, Axis)
    ticks = axis.ticks(150)
    assert len(ticks) >= 2
    ends = [(150 * axis.share(tick), text_width(_tick_text(tick), font(NOTE_PX - 2)) / 2) for tick in ticks]
    assert all(
        right - half_right > left + half_left for (left, half_left), (right, half_right) in pairwise(ends)
    )


def test_figure_grows_with_systems_and_survives_that_nothing_was_measured(
    made_up: Comparison, tmp_path: Path
) -> None:
    figure = draw_comparison(made_up)
    assert np.asarray(figure).std() > 5
    nothing = compare_systems(
        "x", [Entry("vae", 0, "x", config_of("vae", tmp_path), {}, "train failed: nan")]
    )
    assert draw_comparison(nothing).height < figure.height
    assert "no run has a result (train failed: nan)" in as_text(comparison_tables(nothing))


def info() -> DatasetInfo:
    depth = DepthStatistics(2.0, 0.5, 0.5, 4.0, 0.6, 0.3)
    return DatasetInfo(
        modalities=("rgb", "depth", "seg"),
        class_names=("floor", "wall"),
        image_size=8,
        counts={"train": 1, "test": 9},
        depth=depth,
        factors=(),
    )


def views(scenes: int, grey: float) -> Views:
    return Views(
        np.full((scenes, 3, 8, 8), grey, np.float32),
        np.full((scenes, 8, 8), 2.0, np.float32),
        np.zeros((scenes, 8, 8), np.uint8),
    )


def test_scenes_come_back_as_they_were_kept(tmp_path: Path) -> None:
    real = views(9, 0.25)
    assert real.rgb is not None
    real.rgb[0] = np.nan
    kept = shown_scenes(real, views(9, 0.5), None, views(9, 0.75))
    save_scenes(tmp_path / "scenes.npz", kept)
    again = load_scenes(tmp_path / "scenes.npz")
    assert set(again) == {"real", "reconstructed", "samples"}
    found = again["real"].rgb
    assert found is not None
    assert np.isnan(found[0]).all()
    assert (found[1] == 0.25).all()
    first = (tmp_path / "scenes.npz").read_bytes()
    save_scenes(tmp_path / "scenes.npz", kept)
    assert (tmp_path / "scenes.npz").read_bytes() == first


def test_damaged_scenes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scenes.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"scenes.npz: damaged .* --force evaluate"):
        load_scenes(tmp_path / "scenes.npz")


def test_samples_have_a_row_of_pictures_per_system_and_modality() -> None:
    kept = shown_scenes(views(9, 0.25), views(9, 0.5), views(9, 0.6), views(9, 0.75))
    one = draw_systems(info(), {"vae": kept})
    two = draw_systems(info(), {"vae": kept, "gan": kept})
    with_failed = draw_systems(info(), {"vae": kept, "gan": "no result"})
    assert one is not None
    assert two is not None
    assert with_failed is not None
    assert one.height < with_failed.height < two.height
    grey = {int(value) for value in np.unique(np.asarray(one)[..., 0])}
    assert {64, 128, 191} <= grey or {63, 127, 191} <= grey
    assert draw_systems(info(), {"vae": "no result"}) is None
