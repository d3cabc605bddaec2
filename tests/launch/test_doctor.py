"""`doctor` says what is there and what to set, also on machines that this one is not."""

from pathlib import Path

import pytest
import torch

from pipeline.orchestration import doctor, machine
from pipeline.orchestration.gpus import Gpu
from stages import __main__ as command
from tests.launch.conftest import Terminal

H100 = Gpu("NVIDIA H100 80GB HBM3", 79.6, 78.9, "550.54")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = (*doctor.OURS, *doctor.LIBRARIES, *doctor.TORCHRUNS, "MLFLOW_TRACKING_URI")
    for name in (*dropped, "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def found(name: str, root: Path = Path("runs")) -> doctor.Finding:
    return next(finding for finding in doctor.examine(root) if finding.name == name)


def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    (tmp_path / "mounts").write_text("".join(f"{line} rw 0 0\n" for line in ("/dev/vda / ext4", *lines)))
    monkeypatch.setattr(machine, "MOUNTS", tmp_path / "mounts")


def test_advice_comes_after_the_findings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert command.main(["doctor"]) == 0
    findings, _, advice = capsys.readouterr().out.partition("\nto put right:\n")
    assert "  tracking:  http://127.0.0.1:9 does NOT answer within 2 s\n" in findings
    assert "  tracking: a run goes on without it and `sync CONFIG` uploads later" in advice


def test_gpus_and_their_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpus", lambda: [H100, Gpu("NVIDIA GB10")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    text = "NVIDIA H100 80GB HBM3 (80 GiB, 79 free); NVIDIA GB10; CUDA_VISIBLE_DEVICES leaves 1"
    assert found("gpu") == doctor.Finding("gpu", text)
    assert found("backend").text == "NCCL 2.27.3 between GPUs, gloo between processors"
    assert found("bf16").text == "yes, on the GPU"


@pytest.mark.parametrize(
    ("built", "visible", "advice"),
    [
        (False, None, "this torch is built for processors only; install a build for GPUs"),
        (True, "", "CUDA_VISIBLE_DEVICES hides every GPU; unset it"),
        (True, None, "torch cannot use them: it needs a driver for CUDA"),
    ],
)
def test_gpus_that_torch_cannot_use_come_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, built: bool, visible: str | None, advice: str
) -> None:
    monkeypatch.setattr(doctor, "find_gpus", lambda: [H100])
    monkeypatch.setattr(doctor, "torch_is_built_for_gpus", lambda: built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "but torch can use none" in found("gpu").text
    assert found("gpu").advice.startswith(advice)


def test_network_file_system_is_shared_but_bad_for_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a").mkdir()
    mounts(tmp_path, monkeypatch, f"server:/x {tmp_path}/a\\040b nfs4", f"tmpfs {tmp_path}/a tmpfs")
    said = found("root", tmp_path / "a b/runs")
    assert said.text == f"on a network file system (nfs4 at {tmp_path}/a b), which other machines can share"
    assert "set MLFLOW_TRACKING_URI" in said.advice
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert not found("root", tmp_path / "a b/runs").advice
    assert found("root", tmp_path / "runs").text.startswith("on this machine alone (ext4);")
    assert "LOST when the machine stops" in found("root", tmp_path / "a/runs").text


def test_latest_mount_of_a_place_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(tmp_path, monkeypatch, f"/dev/vdb {tmp_path} xfs", f"server:/x {tmp_path} lustre")
    assert machine.file_system(tmp_path) == machine.FileSystem("lustre", str(tmp_path))


def test_interface_that_leads_out_has_the_smallest_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["Iface Destination Gateway Flags RefCnt Use Metric Mask", "eth0 000200C0 0 1 0 0 0 00FFFFFF"]
    rows += ["wlan0 00000000 010200C0 3 0 0 600 0", "ib0 00000000 010200C0 3 0 0 100 0"]
    (tmp_path / "route").write_text("\n".join(rows))
    monkeypatch.setattr(machine, "ROUTES", tmp_path / "route")
    assert machine.default_interface() == "ib0"
    assert "ib0 leads out" in found("network").text


def test_interface_that_is_not_there_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.interfaces()["lo"] == "127.0.0.1"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^docker,lo")
    assert not found("network").advice
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib7")
    assert found("network").advice == "NCCL_SOCKET_IFNAME=ib7 names no interface with an address; unset it"


@pytest.mark.parametrize(("newer", "limit"), [("150000 100000", 1.5), ("max 100000", None)])
def test_limit_of_a_container_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newer: str, limit: float | None
) -> None:
    (tmp_path / "cpu.max").write_text(f"{newer}\n")
    monkeypatch.setattr(machine, "CPU_LIMITS", (tmp_path / "cpu.max", tmp_path / "none"))
    monkeypatch.setattr(doctor, "available_cores", lambda: 64)
    assert machine.cores_allowed() == limit
    assert found("cores").advice.startswith("set OMP_NUM_THREADS to 1 divided") == (limit is not None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not found("cores").advice


def test_limit_of_an_older_container_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_LIMITS", (tmp_path / "none", tmp_path / "cpu.cfs_quota_us"))
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    for quota, limit in (("400000\n", 4.0), ("-1\n", None)):
        (tmp_path / "cpu.cfs_quota_us").write_text(quota)
        assert machine.cores_allowed() == limit


def test_little_shared_memory_and_little_disk_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "shared_memory_gib", lambda: 0.0625)
    assert found("/dev/shm") == doctor.Finding(
        "/dev/shm",
        "64 MiB",
        "give the container more shared memory (docker run --shm-size 8g), or train.loading.workers=0",
    )
    monkeypatch.setattr(doctor, "LITTLE_DISK_GIB", 1e9)
    assert found("disk").advice == "free some space, or choose another disk with --root"


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (
            {"SLURM_JOB_ID": "7", "SLURM_NODEID": "1", "SLURM_JOB_NUM_NODES": "4"},
            "inside SLURM job 7, node 1 of 4",
        ),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"},
            "inside a Kubernetes pod, number 2 of its Job",
        ),
        ({"PATH": "/nowhere"}, "neither inside a job nor with sbatch or kubectl"),
    ],
)
def test_cluster_is_recognised(variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert found("cluster").text == text


def test_variables_that_steer_us_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert found("set").text == "NNODES=2 OMP_NUM_THREADS=4"
    assert found("torchrun").text == "LOCAL_RANK=3; ignored, since every stage starts its own processes"


@pytest.mark.slow
def test_variables_that_torchrun_left_are_ignored(terminal: Terminal) -> None:
    left = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}
    result = terminal.type("run", "tiny.yaml", "--until", "train", **left)
    assert result.returncode == 0, result.stderr
    assert (terminal.directory / "runs/tiny/train/model.safetensors").exists()
