"""Weights divided among processes (`train.sharding: full`): the same model, resumed in any number of them."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes_together import finish, places, succeed
from safetensors.torch import load_file
from test_checkpoint import make_state
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from pipeline.errors import InputError
from pipeline.training import checkpoint, sharding
from pipeline.training.checkpoint import resume, save_checkpoint
from pipeline.training.checkpoint_sharded import read_parts, tensors_of
from pipeline.training.peers import Peers

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("train_once.py")
DIVIDED = "--divided"


def start(dataset: Path, directory: Path, size: int, *options: str) -> list[subprocess.Popen[bytes]]:
    """Some processes that train together in float64; the options after a colon are for the last one alone."""
    everyone = [option for option in options if not option.startswith(":")]
    last = [option.removeprefix(":") for option in options if option.startswith(":")]
    command = [sys.executable, str(DRIVER), str(dataset), str(directory), "--double", *everyone]
    return [
        subprocess.Popen(
            [*command, *(last if number == size else ())],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | place,
            stderr=subprocess.PIPE,
        )
        for number, place in enumerate(places(size), start=1)
    ]


def run(dataset: Path, directory: Path, size: int, *options: str) -> None:
    succeed(start(dataset, directory, size, *options))


def stop(dataset: Path, directory: Path, size: int, *options: str) -> None:
    codes, said = finish(start(dataset, directory, size, "--stop-after", "5", *options))
    assert all(codes), said
    assert "a checkpoint is saved" in said


def files(directory: Path, name: str) -> set[str]:
    return {path.name for path in (directory / "checkpoints" / name).iterdir()}


def assert_same_model(one: Path, other: Path) -> None:
    expected, found = (load_file(directory / "model.safetensors") for directory in (one, other))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes without interruption."""
    directory = tmp_path_factory.mktemp("whole")
    run(dataset, directory, 1)
    return directory


def test_two_processes_that_divide_the_weights_train_the_same_model(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    run(dataset, tmp_path, 2, DIVIDED)
    assert_same_model(whole, tmp_path)
    names = {".metadata", "__0_0.distcp", "__1_0.distcp", "progress.json", "manifest.json"}
    assert files(tmp_path, "000000000096") == names
    assert files(tmp_path, "best") == names | {"best.json"}
    sizes = [(tmp_path / "checkpoints" / "best" / f"__{rank}_0.distcp").stat().st_size for rank in (0, 1)]
    assert min(sizes) > 0.4 * sum(sizes)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((2, DIVIDED), (1,)),
        ((2, DIVIDED), (4, DIVIDED)),
        ((4, DIVIDED), (2,)),
        ((1,), (2, DIVIDED)),
    ],
)
def test_a_checkpoint_loads_in_another_number_of_processes_divided_or_not(
    dataset: Path, whole: Path, tmp_path: Path, first: tuple[int, str], then: tuple[int, str]
) -> None:
    stop(dataset, tmp_path, *first)
    run(dataset, tmp_path, *then)
    assert_same_model(whole, tmp_path)


def test_a_process_killed_while_it_writes_its_part_costs_one_checkpoint(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    main, last = processes = start(dataset, tmp_path, 2, DIVIDED, ":--die", ":part:2")
    last.wait(timeout=300)
    main.kill()  # as the launcher does where one of several has died
    codes, said = finish(processes)
    assert codes == [-signal.SIGKILL] * 2, said
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"000000000016", ".saving-000000000032", "best", "latest"}
    run(dataset, tmp_path, 2, DIVIDED)
    assert_same_model(whole, tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".saving-*"))


def test_a_full_disk_of_one_process_is_said_once_and_the_next_checkpoint_is_written_by_all(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    codes, said = finish(start(dataset, tmp_path, 2, DIVIDED, ":--full-disk", ":2"))
    assert not any(codes), said
    assert said.count("a checkpoint could not be written") == 2, said  # one line of each, and no more
    assert "No space left on device" in said
    assert "the last good one is 000000000016" in said
    assert_same_model(whole, tmp_path)
    assert files(tmp_path, "000000000096") >= {"__0_0.distcp", "__1_0.distcp"}


def test_a_damaged_part_is_found_and_the_checkpoint_before_it_taken(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    stop(dataset, tmp_path, 2, DIVIDED)
    newest = max(path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    part = newest / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    codes, said = finish(start(dataset, tmp_path, 2, DIVIDED))
    assert not any(codes), said
    assert f"{newest} is damaged (__1_0.distcp does not match its checksum); trying the one before" in said
    assert_same_model(whole, tmp_path)


def test_another_process_takes_what_the_first_one_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "VISIBLE_S", 0.3)
    state = make_state()
    for samples_seen in (64, 128):
        state.samples_seen = samples_seen
        save_checkpoint(tmp_path, state, keep=2)

    def second(first: float) -> Peers:
        """What another process adds to the second's zeros."""
        return Peers(2, lambda numbers: numbers + first, lambda rows: rows)

    other = make_state(seed=1)
    assert resume(tmp_path, other, pytest.fail, second(64.0), is_main=False)
    assert other.samples_seen == 64
    assert not resume(tmp_path, other, pytest.fail, second(checkpoint.NONE), is_main=False)
    with pytest.raises(InputError, match="the first process found every checkpoint damaged"):
        resume(tmp_path, other, pytest.fail, second(checkpoint.DAMAGED), is_main=False)
    with pytest.raises(InputError, match=r"000000000192: the first process goes on from .* cannot read it"):
        resume(tmp_path, other, pytest.fail, second(192.0), is_main=False)


def test_one_process_has_nothing_to_divide(dataset: Path, tmp_path: Path) -> None:
    codes, said = finish(start(dataset, tmp_path, 1, DIVIDED))
    assert codes == [0], said
    assert "train.sharding: full has nothing to divide in one process; see --nproc" in said
    assert "model.safetensors" in files(tmp_path, "best")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        sharding.fill(torch.zeros(2), torch.zeros(3))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_describes_the_parts_cannot_run_code(tmp_path: Path) -> None:
    state = make_state()
    tensors = tensors_of(state)
    save(dict(tensors), storage_writer=FileSystemWriter(tmp_path), no_dist=True)
    other = make_state(seed=1)
    read_parts(tmp_path, other)
    torch.testing.assert_close(tensors_of(other), tensors, rtol=0, atol=0)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(pytest.fail))
    with pytest.raises(ValueError, match=r"\.metadata names .*, which describes no tensor"):
        read_parts(tmp_path, other)
