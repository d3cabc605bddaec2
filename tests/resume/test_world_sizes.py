"""The history of losses does not depend on how many processes train, nor on micro-batches."""

import json
from pathlib import Path

import pytest
from processes_together import start, succeed

SYSTEMS = ("vae", "betatc", "wae", "aae", "avb", "vaegan")
DIVISIBLE = ("vae", "aae", "avb", "vaegan")
"""Systems whose loss is a sum over rows, so that they may be trained in micro-batches."""

UPDATES = 4
TOLERANCE = {"float64": 1e-9, "float32": 2e-5}
"""Of losses, relative. docs/scaling.md has what was measured, and over longer histories."""


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every system in four, two and one processes, in both precisions, with and without micro-batches."""
    directory = tmp_path_factory.mktemp("histories")
    succeed(start("world_sizes.py", directory, UPDATES, *SYSTEMS, size=4), timeout_s=500)
    return directory


def reports(
    directory: Path, system: str, dtype: str, size: int, accumulation: int = 1
) -> list[dict[str, float]]:
    path = directory / f"{system}-{dtype}-{size}-{accumulation}.json"
    values: list[dict[str, float]] = json.loads(path.read_text())
    return values


def losses(directory: Path, system: str, dtype: str, size: int, accumulation: int = 1) -> list[float]:
    return [report["loss"] for report in reports(directory, system, dtype, size, accumulation)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_does_not_depend_on_the_number_of_processes(
    system: str, dtype: str, histories: Path
) -> None:
    alone = losses(histories, system, dtype, 1)
    assert len(alone) == UPDATES
    assert len(set(alone)) == UPDATES, "it learns"
    for size in (2, 4):
        assert losses(histories, system, dtype, size) == pytest.approx(alone, rel=TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("system", DIVISIBLE)
def test_micro_batches_in_one_and_in_two_processes_leave_the_loss_as_it_is(
    system: str, dtype: str, histories: Path
) -> None:
    alone = losses(histories, system, dtype, 1)
    for size in (1, 2):
        assert losses(histories, system, dtype, size, 2) == pytest.approx(alone, rel=TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_nor_does_any_term_or_gradient(system: str, histories: Path) -> None:
    """A gradient that is wrong by a factor hardly shows in the loss: Adam does not care about scale."""
    alone = reports(histories, system, "float64", 1)
    for size in (2, 4):
        for mine, theirs in zip(reports(histories, system, "float64", size), alone, strict=True):
            assert mine.keys() == theirs.keys()
            assert list(mine.values()) == pytest.approx(list(theirs.values()), rel=1e-9, abs=1e-9)


@pytest.mark.slow
def test_systems_whose_rows_belong_together_are_not_trained_in_micro_batches(histories: Path) -> None:
    divided = {path.name.split("-")[0] for path in histories.glob("*-2.json")}
    assert divided == set(DIVISIBLE)
