"""A dataset is the same whoever makes it, in however many processes, and however often they are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from noise_source import catalogue, config, noise, run_noise
from picture_folder import Spoken

from pipeline.config import Config
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.shards.dataset import INFO, read_info
from pipeline.data.shards.parts import PARTS, finished_numbers, plan_parts
from pipeline.errors import InputError
from pipeline.orchestration.job import Job, write_job
from pipeline.orchestration.ledger import Record, place_of
from stages import shard

ROOT = Path(__file__).parents[2]

COUNT = 50
SPLITS = ["test" if number % 7 == 3 else "train" for number in range(COUNT)]
FAULTY = noise(COUNT, bad={4, 5, 17, 20, 24}, copies={8: 3, 31: 11, 40: 41}, far={12: 1000.0})
CONFIG = config()


def tree_bytes(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "pictures" not in path.parts
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset made by one process that nobody disturbs."""
    directory = tmp_path_factory.mktemp("calm")
    run_noise(directory, catalogue(FAULTY, SPLITS), CONFIG)
    return tree_bytes(directory)


def test_the_calm_dataset_has_refused_what_is_wrong(tmp_path: Path) -> None:
    manifest = run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG)
    info = read_info(tmp_path)
    assert info.quarantine == {"duplicate_across_splits": 2, "spoiled": 5, "unit_change": 1}
    assert manifest.metrics["quarantined"] == 8
    assert sum(info.counts.values()) == COUNT - 8
    assert not (tmp_path / PARTS).exists()
    dataset = ShardedDataset(tmp_path)
    for split, count in info.counts.items():
        assert len(dataset.read(split, range(count)).key) == count


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    tmp_path: Path, workers: int, calm: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "CHUNK", 3)
    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG.model_copy(update={"workers": workers}))
    assert tree_bytes(tmp_path) == calm


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_bytes(tmp_path: Path, ranks: int, calm: dict[str, bytes]) -> None:
    for rank in reversed(range(ranks)):  # the first comes last, so that it need not wait here
        run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG, rank=rank, size=ranks)
        assert (tmp_path / INFO).exists() == (rank == 0)
    assert tree_bytes(tmp_path) == calm


def test_every_rank_makes_its_own_parts_and_no_other(tmp_path: Path) -> None:
    parts = plan_parts(SPLITS, 6)
    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG, rank=1, size=3)
    assert finished_numbers(tmp_path) == {part.number for part in parts if part.number % 3 == 1}
    entries = np.concatenate([part.entries for part in parts])
    assert sorted(entries.tolist()) == list(range(COUNT))
    for part in parts:
        assert {SPLITS[entry] for entry in part.entries} == {part.split}
        assert (np.diff(part.entries) > 0).all()


def test_a_rank_that_comes_when_all_is_done_changes_nothing(tmp_path: Path, calm: dict[str, bytes]) -> None:
    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG)
    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG, rank=1, size=2)
    assert tree_bytes(tmp_path) == calm


def test_the_first_rank_waits_for_the_others_and_stops_when_one_failed(tmp_path: Path) -> None:
    asked = []

    def failure() -> str | None:
        asked.append(len(finished_numbers(tmp_path)))
        return "RuntimeError: of rank 1" if len(asked) == 2 else None

    with pytest.raises(InputError, match="another process of this stage failed: RuntimeError: of rank 1"):
        run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG, rank=0, size=2, peer_failure=failure)
    assert asked == [len(plan_parts(SPLITS, 6)[::2])] * 2
    assert not (tmp_path / INFO).exists()


def test_finished_parts_are_not_made_again_but_damaged_ones_are(
    tmp_path: Path, calm: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_made(tmp_path, monkeypatch)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / PARTS).glob("*/part.json")}
    with (tmp_path / PARTS / "000001" / "train.tar").open("ab") as tar:
        tar.write(b"more")
    (tmp_path / PARTS / "000003" / "part.json").write_text("{")
    shutil.rmtree(tmp_path / PARTS / "000005")
    all_made(tmp_path, monkeypatch)
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / PARTS).glob("*/part.json")}
    assert again.keys() == made.keys()
    assert {path.parent.name for path in made if again[path] != made[path]} == {"000001", "000003", "000005"}
    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG)
    assert tree_bytes(tmp_path) == calm


class Killed(BaseException):
    """As far as the program can tell, the process is gone."""


def all_made(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is there, and nothing put together yet."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shard, "merge", killed)
        with pytest.raises(Killed):
            run_noise(directory, catalogue(FAULTY, SPLITS), CONFIG)


def test_a_kill_at_any_file_operation_of_the_merge_is_made_good(
    tmp_path: Path, calm: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_made(tmp_path / "made", monkeypatch)
    crashes = 0
    while True:
        directory = tmp_path / f"crash-{crashes}"
        shutil.copytree(tmp_path / "made", directory)
        with monkeypatch.context() as patch:
            die_at(crashes, patch)
            try:
                run_noise(directory, catalogue(FAULTY, SPLITS), CONFIG)
                break
            except Killed:
                pass
        run_noise(directory, catalogue(FAULTY, SPLITS), CONFIG)
        assert tree_bytes(directory) == calm, f"operation {crashes}"
        shutil.rmtree(directory)
        crashes += 1
    assert crashes > 30


def die_at(operation: int, patch: pytest.MonkeyPatch) -> None:
    """Let this operation on files, and every one after it, not happen."""
    count = 0

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count > operation:
                raise Killed(name)
            return real(*arguments, **named)

        return call

    for name in ("link", "unlink", "rmdir", "rename", "replace", "fsync"):
        patch.setattr(os, name, guarded(name, getattr(os, name)))


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from picture_folder import run_shard
from pipeline.config.data import Data
if __name__ == "__main__":
    run_shard(Data.model_validate({config!r}), Path({out!r}))
"""


@pytest.mark.slow
def test_a_dataset_made_with_kills_in_the_middle_is_the_one_made_without(tmp_path: Path) -> None:
    values = {"source": {"kind": "rooms", "count": 600}, "image_size": 32, "shard_samples": 20, "workers": 2}
    script = tmp_path / "killed.py"
    for kills in (2, 0):
        out = tmp_path / str(kills)
        script.write_text(KILLED.format(tests=str(Path(__file__).parent), config=values, out=str(out)))
        for kill in range(kills):
            before = len(finished_numbers(out))
            process = subprocess.Popen([sys.executable, script], cwd=ROOT)
            while len(finished_numbers(out)) < before + 3:
                assert process.poll() is None, f"it was not killed in the middle ({kill})"
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (out / INFO).exists()
        subprocess.run([sys.executable, script], cwd=ROOT, check=True)
    assert tree_bytes(tmp_path / "2") == tree_bytes(tmp_path / "0")


def test_progress_counts_what_an_earlier_attempt_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_made(tmp_path, monkeypatch)
    begun = []

    class Begun(Spoken):
        def start(self, label: str, total: int, unit: str = "", done: int = 0) -> None:
            begun.append((label, total, done))
            super().start(label, total, unit, done)

    run_noise(tmp_path, catalogue(FAULTY, SPLITS), CONFIG, spoken=Begun())
    assert begun[0] == ("samples", COUNT, COUNT)


def test_held_out_classes_make_uneven_shards_that_are_joined(tmp_path: Path) -> None:
    entries = noise(40)
    apart = config(held_out={"classes": ["thing"]})
    plain = catalogue(entries, ["train"] * 30 + ["test"] * 10)
    labels = {n: n % 3 == 0 for n in range(40)}

    class Labelled:
        def __call__(self, some: list[Any]) -> Any:
            for made, entry in zip(plain.load(some), some, strict=True):
                seg = made.seg.copy()  # type: ignore[union-attr]
                seg[seg != 255] = 2 if labels[entry.number] else 1
                yield type(made)(**(vars(made) | {"seg": seg}))

    run_noise(tmp_path, catalogue(entries, list(plain.splits), load=Labelled()), apart)
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    held_out = [int(row["key"][1:]) for row in rows if row["split"] == "heldout"]
    assert held_out == [n for n in range(40) if labels[n]]
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row["shard"]] = sizes.get(row["shard"], 0) + 1
    assert max(sizes.values()) <= 6
    assert [size for name, size in sizes.items() if name.startswith("heldout")] == [6, 6, 2]
    dataset = ShardedDataset(tmp_path)
    batch = dataset.read("heldout", range(14))
    assert set(batch.modalities["seg"].value.unique().tolist()) == {2, 255}
    assert [int(key[1:]) for key in batch.key] == held_out


TWO_PROCESSES = """\
name: tiny
data: {source: {kind: rooms, count: 60}, image_size: 32, shard_samples: 7, workers: 1}
tracking: {enabled: false}
"""


@pytest.mark.slow
def test_the_command_with_several_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TWO_PROCESSES)
    digests = []
    for number in (1, 2):
        command = [sys.executable, "-m", "stages", "shard", "tiny.yaml", "--root", f"runs{number}"]
        subprocess.run(
            [*command, "--nproc", str(number)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
            check=True,
            timeout=240,
        )
        (made,) = (tmp_path / f"runs{number}" / "datasets").glob("[0-9a-f]*")
        about_the_run = ("stage.json", "timing.json")
        digests.append({name: data for name, data in tree_bytes(made).items() if name not in about_the_run})
    assert digests[0] == digests[1]
    assert {"train-000000.tar", "index.parquet", "dataset.json", "metrics.json"} <= digests[0].keys()


@pytest.mark.slow
def test_processes_started_from_outside_make_the_dataset_of_one_together(tmp_path: Path) -> None:
    """As torchrun or a batch system would start them: RANK and WORLD_SIZE tell, files are all they share."""
    values = {"source": {"kind": "rooms", "count": 200}, "image_size": 32, "shard_samples": 7, "workers": 1}
    loaded = Config.model_validate({"name": "tiny", "data": values})
    made = []
    for size in (1, 2):
        root = tmp_path / str(size)
        place = place_of(root, "tiny", "shard", "0" * 64)
        place.working.mkdir(parents=True)
        record = Record("shard", "running", "0" * 64, 1, {}, {})
        job = Job(loaded.model_dump(mode="json"), root, place, record, {}, root / "progress.json")
        write_job(root / "job.json", job)
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "stages.worker", "--job", str(root / "job.json")],
                cwd=ROOT,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size)},
            )
            for rank in range(size)
        ]
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * size
        about_the_run = ("stage.json", "timing.json")
        content = {k: v for k, v in tree_bytes(place.final).items() if k not in about_the_run}
        made.append(content)
    assert made[0] == made[1]
    assert {"train-000000.tar", "index.parquet", "dataset.json"} <= made[0].keys()
