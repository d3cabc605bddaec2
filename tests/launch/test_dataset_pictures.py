"""Pictures of a dataset go with it and decide nothing."""

import shutil
from pathlib import Path

from pipeline.orchestration.ledger import adopt_dataset, commit, damage, read_record
from pipeline.orchestration.stage import Manifest
from tests.launch.conftest import Run


def made(run: Run, picture: bytes, share: float) -> tuple[Path, Path]:
    """A dataset with a picture and a metric about it: its directory, and the run's own."""
    step, record = run.begin("shard")
    assert step.place is not None
    working = step.place.working
    (working / "pictures").mkdir()
    (working / "pictures" / "contact_sheet.png").write_bytes(picture)
    for name, content in (("dataset.json", "what is there"), ("index.parquet", "where"), ("t.tar", "a")):
        (working / name).write_text(content)
    commit(step.place, record, Manifest({"samples/train": 8.0, "classes/cup": share}), run.root)
    adopt_dataset(step.place, run.root)
    return step.place.final, step.place.home


def test_later_stages_do_not_run_again_for_another_picture(run: Run) -> None:
    dataset, _ = made(run, b"drawn in one way", 0.25)
    run.finish("train")
    first = read_record(dataset)
    shutil.rmtree(dataset)
    dataset, _ = made(run, b"drawn otherwise", 0.2500001)
    second = read_record(dataset)
    assert first is not None
    assert second is not None
    assert first.digest == second.digest
    assert run.steps()["train"].verb == "skip"


def test_another_dataset_has_another_digest(run: Run) -> None:
    step, record = run.begin("shard")
    assert step.place is not None
    digests = set()
    for name in ("dataset.json", "index.parquet"):
        shutil.rmtree(step.place.final, ignore_errors=True)
        step.place.working.mkdir(exist_ok=True)
        (step.place.working / "dataset.json").write_text("{}")
        (step.place.working / "index.parquet").write_text("rows")
        (step.place.working / name).write_text("other")
        digests.add(commit(step.place, record, Manifest(), run.root).digest)
    assert len(digests) == 2


def test_a_lost_picture_damages_nothing_but_a_lost_tar_does(run: Run) -> None:
    dataset, _ = made(run, b"a picture", 0.25)
    record = read_record(dataset)
    assert record is not None
    shutil.rmtree(dataset / "pictures")
    assert damage(dataset, record) is None
    (dataset / "t.tar").unlink()
    assert damage(dataset, record) == f"{dataset / 't.tar'} is missing"


def test_every_run_of_the_dataset_has_its_pictures(run: Run) -> None:
    _, home = made(run, b"a picture", 0.25)
    assert (home / "pictures" / "contact_sheet.png").read_bytes() == b"a picture"
