"""A comparison in MLflow: nested once, however often it is uploaded, and after an outage."""

import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.orchestration.compared import write_members
from pipeline.orchestration.mirror_comparison import Comparable, sync_comparison, upload_comparison
from pipeline.orchestration.mirror_cursor import only_mirror
from pipeline.orchestration.tracking import start_mirror
from tests.tracking.fake_run import FakeRun, config_of, write_dataset
from tests.tracking.server import Server

pytestmark = pytest.mark.slow


def server_of(root: Path) -> Server:
    return Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")


def compared(root: Path, *names: str, **tracking: object) -> Comparable:
    """Finished members that nobody has uploaded yet, and a comparison of them."""
    runs = [FakeRun(root, config_of(name, **tracking)) for name in names]
    for run in runs:
        if not (run.directory / "shard").exists():
            write_dataset(run.start("shard"))
            run.finish("shard", samples=12.0)
    directory = root / "demo-compare"
    directory.mkdir(exist_ok=True)
    (directory / "table.md").write_text("# demo-compare\n\n| system | KID |\n|---|---|\n| vae | 0.01 |\n")
    (directory / "comparison.json").write_text("{}")
    Image.new("RGB", (300, 200), "white").save(directory / "comparison.png")
    return Comparable(
        directory,
        [(run.directory, run.config) for run in runs],
        {"vae/prior/fd_pca": 1.5, "vae/rgb+depth/rgb_psnr_db": 20.0},
        "triptych sync demo.yaml",
        "triptych ui",
    )


def test_members_are_nested_under_one_run_however_often_it_is_uploaded(root: Path) -> None:
    comparable = compared(root, "demo-vae-s0", "demo-gan-s0")
    lines = upload_comparison(comparable, 240.0)
    assert upload_comparison(comparable, 240.0) == lines
    assert lines[0] == "MLflow, once `triptych ui` runs:"
    server = server_of(root)
    whole = server.only("demo-compare")
    assert whole.status == "FINISHED"
    assert whole.parent is None
    assert server.only("demo-vae-s0").parent == server.only("demo-gan-s0").parent == whole.identifier
    assert server.only("demo-vae-s0:shard").parent == server.only("demo-vae-s0").identifier
    assert whole.metrics == {"vae.prior.fd_pca": 1.5, "vae.rgb-depth.rgb_psnr_db": 20.0}
    assert "| vae | 0.01 |" in whole.tags["mlflow.note.content"]
    assert server.artifacts(whole) == ["comparison.json", "comparison.png", "images", "table.md"]
    assert server.images(whole) == {("at a glance/comparison", 0): 1}
    assert whole.identifier in lines[2]


def test_what_changed_replaces_what_was_there(root: Path) -> None:
    upload_comparison(compared(root, "demo-vae-s0"), 240.0)
    again = compared(root, "demo-vae-s0", "demo-wae-s0")
    (again.directory / "table.md").write_text("another table")
    upload_comparison(again, 240.0)
    server = server_of(root)
    whole = server.only("demo-compare")
    assert whole.tags["mlflow.note.content"] == "another table"
    assert server.only("demo-wae-s0").parent == whole.identifier
    assert sum(server.images(whole).values()) == 1


def test_outage_is_said_with_what_to_type_and_the_next_upload_makes_up_for_it(root: Path) -> None:
    gone = compared(root, "demo-vae-s0", uri="http://127.0.0.1:9")
    started_s = time.monotonic()
    (line,) = upload_comparison(gone, 60.0)
    assert time.monotonic() - started_s < 60.0
    assert "does not work now" in line
    assert "`triptych sync demo.yaml` uploads what waits" in line
    upload_comparison(compared(root, "demo-vae-s0"), 240.0)
    assert server_of(root).only("demo-compare").status == "FINISHED"


def test_sync_uploads_what_an_outage_kept_back_without_running_the_comparison(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is named by the environment, as it is where one is shared."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    comparable = compared(root, "demo-vae-s0", "demo-gan-s0")
    (line,) = upload_comparison(comparable, 60.0)
    assert "does not work now" in line
    with pytest.raises(InputError, match="does not work now"):
        sync_comparison(comparable.directory, 60.0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    lines = sync_comparison(comparable.directory, 240.0)
    assert lines[0] == "MLflow, once `triptych ui` runs:"
    server = server_of(root)
    whole = server.only("demo-compare")
    assert whole.status == "FINISHED"
    assert whole.metrics == {"vae.prior.fd_pca": 1.5, "vae.rgb-depth.rgb_psnr_db": 20.0}
    assert server.only("demo-gan-s0").parent == whole.identifier
    assert sync_comparison(comparable.directory, 240.0) == lines
    assert len(server.runs()["demo-compare"]) == 1


def test_sync_of_an_unfinished_comparison_uploads_what_its_runs_have(root: Path) -> None:
    comparable = compared(root, "demo-vae-s0")
    names = [directory.name for directory, _ in comparable.members]
    write_members(
        comparable.directory, [*names, "demo-gan-s0"], "triptych compare demo.yaml --systems vae,gan"
    )
    (line,) = sync_comparison(comparable.directory, 240.0)
    assert line.startswith("demo-compare: not finished yet")
    assert server_of(root).only("demo-vae-s0:shard").status == "FINISHED"
    assert "demo-compare" not in server_of(root).runs()


def test_upload_waits_for_the_mirror_of_a_member_that_is_still_at_it(root: Path) -> None:
    comparable = compared(root, "demo-vae-s0")
    directory, config = comparable.members[0]
    mirror = start_mirror(directory, config)
    mirror.close(0.0)
    upload_comparison(comparable, 240.0)
    assert server_of(root).only("demo-vae-s0").parent == server_of(root).only("demo-compare").identifier


def test_nothing_is_uploaded_where_tracking_is_off(root: Path) -> None:
    assert upload_comparison(compared(root, "demo-vae-s0", enabled=False), 240.0) == []


def test_slow_upload_is_left_behind(root: Path) -> None:
    comparable = compared(root, "demo-vae-s0")
    with only_mirror(comparable.members[0][0]):
        (line,) = upload_comparison(comparable, 0.5)
    assert "uploads what waits" in line
