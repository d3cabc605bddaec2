"""The stage on built-in scenes, on real frames, and when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from doubling import double, repeated
from picture_folder import Spoken, run_shard

from pipeline.config import load_config
from pipeline.config.data import Data
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.parallel import ordered_map
from pipeline.data.scenes.samples import RoomSamples
from pipeline.data.shards.dataset import read_info
from pipeline.data.splits import held_out_values, split_by_blocks
from pipeline.errors import STOP_SIGNALS, InputError

ROOT = Path(__file__).parents[2]
CAMERA = ROOT.parent / "shared" / "data" / "tools"


def scenes(**values: Any) -> Data:
    return Data.model_validate(
        {"source": {"kind": "rooms", "count": 40}, "image_size": 32, "workers": 1} | values
    )


def test_rooms_become_a_dataset_whose_samples_are_the_rendered_rooms(tmp_path: Path) -> None:
    config = scenes(held_out={"factors": {"shape": ["capsule"], "floor_hue": [0, "orange"]}})
    manifest = run_shard(config, tmp_path)
    info = read_info(tmp_path)
    assert sum(info.counts.values()) == 40
    assert manifest.metrics["samples/heldout"] == info.counts["heldout"] > 0
    assert info.class_names == ("floor", "wall", "cube", "cylinder", "sphere", "capsule")
    dataset = ShardedDataset(tmp_path)
    load = RoomSamples(0, 1.0, 32)
    for split in info.counts:
        batch = dataset.read(split, range(dataset.length(split)))
        assert batch.factors is not None
        held_out = (batch.factors[:, 4] == 3) | (batch.factors[:, 0] < 2)
        assert held_out.all() if split == "heldout" else not held_out.any()
        sample = load(int(batch.key[0].removeprefix("room-")))
        np.testing.assert_array_equal(batch.modalities["depth"].value[0, 0].numpy(), sample.depth)
        assert sample.factors == dict(
            zip((f.name for f in info.factors), batch.factors[0].tolist(), strict=True)
        )


def test_the_test_split_has_the_asked_for_share_of_what_is_not_held_out(tmp_path: Path) -> None:
    run_shard(scenes(source={"kind": "rooms", "count": 60}, held_out={"factors": {"shape": [3]}}), tmp_path)
    counts = read_info(tmp_path).counts
    assert counts["test"] == round(0.1 * (counts["train"] + counts["test"]))


def test_tabletops_know_their_number_of_objects(tmp_path: Path) -> None:
    config = scenes(
        source={"kind": "tabletop", "count": 40, "max_objects": 3},
        held_out={"factors": {"objects": ["three"]}},
    )
    run_shard(config, tmp_path)
    info = read_info(tmp_path)
    assert info.factors[0].values == ("one", "two", "three")
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert {row["factor_objects"] for row in rows if row["split"] == "heldout"} == {2}
    assert {row["factor_objects"] for row in rows if row["split"] != "heldout"} == {0, 1}


def test_large_pictures_are_stored_compressed_and_exactly(tmp_path: Path) -> None:
    run_shard(scenes(source={"kind": "rooms", "count": 6}, image_size=128), tmp_path)
    dataset = ShardedDataset(tmp_path)
    batch = dataset.read("train", [0])
    exact = RoomSamples(0, 1.0, 128)(int(batch.key[0].removeprefix("room-")))
    np.testing.assert_array_equal(batch.modalities["depth"].value[0, 0].numpy(), exact.depth)
    np.testing.assert_array_equal(batch.modalities["seg"].value[0].numpy(), exact.seg)
    described = json.loads((tmp_path / "dataset.json").read_text())
    assert described["members"] == {"rgb": "rgb.npy.zst", "depth": "depth.npy.zst", "seg": "seg.npy.zst"}
    assert described["lossy"] == []
    assert dataset.info.quarantine == {}


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        ({"factors": {"shapes": ["cube"]}}, "unknown 'shapes'; did you mean 'shape'"),
        ({"factors": {"shape": ["capsul"]}}, "unknown 'capsul'; did you mean 'capsule'"),
        ({"factors": {"shape": [4]}}, r"4 is no index of its 4 values; allowed are 0\.\.3 or cube, "),
        ({"factors": {"shape": [0, 1, 2, 3]}}, "all its values are held out"),
        ({"classes": ["sofa"]}, "unknown 'sofa'"),
    ],
)
def test_held_out_names_that_do_not_exist_are_refused(
    tmp_path: Path, held_out: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_shard(scenes(held_out=held_out), tmp_path)


def test_held_out_values_are_names_or_indices() -> None:
    from pipeline.data.scenes.rooms import FACTORS

    assert held_out_values({"shape": ["capsule", 0], "scale": ["0.75"]}, FACTORS) == {
        "shape": {0, 3},
        "scale": {0},
    }


@pytest.mark.parametrize(
    ("count", "block", "share", "tested"),
    [(100, 1, 0.1, 10), (97, 10, 0.1, 10), (10, 1, 0.01, 1), (3, 1, 0.9, 2), (50, 7, 0.5, 22)],
)
def test_the_test_share_is_met_as_nearly_as_blocks_allow(
    count: int, block: int, share: float, tested: int
) -> None:
    for seed in range(5):
        splits = split_by_blocks(count, block, share, seed)
        assert abs(splits.count("test") - share * count) <= max(block / 2 + block, 1)
        assert splits.count("test") >= 1
        assert splits.count("train") >= 1
    assert tested in {split_by_blocks(count, block, share, seed).count("test") for seed in range(5)}


def test_the_split_seed_chooses_the_blocks() -> None:
    first, again, other = (split_by_blocks(100, 4, 0.2, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(len(set(first[block : block + 4])) == 1 for block in range(0, 100, 4))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_whatever_the_workers(workers: int) -> None:
    assert list(ordered_map(double, range(12), workers)) == [2 * number for number in range(12)]


def test_large_and_small_results_do_not_mix() -> None:
    assert list(ordered_map(repeated, range(30), 2)) == [repeated(number) for number in range(30)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_raised_here(workers: int) -> None:
    results = ordered_map(double, range(20), workers)
    with pytest.raises(InputError, match="thirteen"):
        list(results)


def test_a_request_to_stop_that_reaches_workers_too_ends_none_of_them() -> None:
    results = ordered_map(repeated, range(60), 2)
    assert next(results) == repeated(0)
    family = psutil.Process().children(recursive=True)
    workers = [process for process in family if process.ppid() != os.getpid()]
    assert len(workers) == 2
    for worker in workers:
        for number in STOP_SIGNALS:
            worker.send_signal(number)
    assert list(results) == [repeated(number) for number in range(1, 60)]


SHARD_SLOWLY = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from doubling import double, repeated
from picture_folder import run_shard
from pipeline.config.data import Data
from pipeline.orchestration.progress import Progress
if __name__ == "__main__":
    config = Data.model_validate({{"source": {{"kind": "rooms", "count": 100000}}, "workers": 2}})
    print("started", flush=True)
    try:
        run_shard(config, Path({out!r}))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def descendants(pid: int) -> set[int]:
    """Processes whose session or group began with `pid`."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = int(status.read_text().rpartition(")")[2].split()[2])
        except (OSError, IndexError):
            continue
        if group == pid:
            found.add(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_keeps_running_after_the_stage_is_stopped(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SHARD_SLOWLY.format(tests=str(Path(__file__).parent), out=str(tmp_path / "out")))
    process = subprocess.Popen(
        [sys.executable, script], start_new_session=True, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        deadline_s = time.monotonic() + 60
        while not list((tmp_path / "out").glob("parts/*/train.tar")) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert len(descendants(process.pid)) >= 3  # this one, a fork server, two workers
        os.kill(process.pid, how)
        process.wait(timeout=30)
        deadline_s = time.monotonic() + 20
        while (left := descendants(process.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert not left
        assert not (tmp_path / "out" / "dataset.json").exists()
    finally:
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_sharding_imports_no_torch() -> None:
    code = "import sys, stages.shard, pipeline.data.sources; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.skipif(not CAMERA.is_dir(), reason="the camera frames are not there")
def test_real_camera_frames_become_a_dataset(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / "tools.yaml", [f"data.source.root={CAMERA}"]).data
    spoken = Spoken()
    run_shard(config, tmp_path, spoken)
    info = read_info(tmp_path)
    # Every frame that shows the held-out hammer is kept for the few-shot stage.
    assert info.counts == {"train": 131, "test": 31, "heldout": 86}
    assert info.class_names == ("background", "clamp", "screwdriver", "level", "cup", "hammer")
    assert info.quarantine == {}
    assert info.depth is not None
    assert 0.3 < info.depth.mean_m < 1.0
    assert spoken.lines == []
    dataset = ShardedDataset(tmp_path)
    batch = dataset.read("test", range(31))
    assert all(key.startswith("test_") for key in batch.key)
    assert batch.present().all()
    assert batch.modalities["depth"].valid.float().mean() > 0.8
    # Aligned: a tool stands out of the bin in depth where it does in the labels.
    tool = (batch.modalities["seg"].value > 0) & batch.modalities["depth"].valid
    ground = (batch.modalities["seg"].value == 0) & batch.modalities["depth"].valid
    depth = batch.modalities["depth"].value[:, 0]
    nearer = [
        depth[row][ground[row]].median() - depth[row][tool[row]].median()
        for row in range(31)
        if tool[row].any()
    ]
    assert np.median(nearer) > 0
