"""GPUs are counted as torch would see them, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.orchestration import gpus

TWO = "0, NVIDIA H100 80GB HBM3, 81559, 80994, 550.54.15\n1, NVIDIA H100 80GB HBM3, 81559, 40960, 550.54.15\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for nvidia-smi that prints `answer`, on a machine whose torch is built for GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/usr/bin/env bash\ncat {tmp_path}/answer\n")
    program.chmod(0o755)
    (tmp_path / "answer").write_text(TWO)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "torch_is_built_for_gpus", lambda: True)
    monkeypatch.setattr(gpus, "PROC", tmp_path / "none")
    return program


def test_driver_names_gpus_and_their_memory(smi: Path) -> None:
    first, second = gpus.find_gpus()
    assert first == gpus.Gpu("NVIDIA H100 80GB HBM3", 81559 / 1024, 80994 / 1024, "550.54.15")
    assert second.free_gib == 40.0
    assert gpus.count_gpus() == 2


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("1", 1),
        ("0,1", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("NoDevFiles", 0),
        ("GPU-8a2b", 1),
        ("0,1,2,3", 2),
    ],
)
def test_cuda_visible_devices_hides_gpus(
    smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.count_gpus() == count


def test_torch_without_gpus_counts_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "torch_is_built_for_gpus", lambda: False)
    assert gpus.count_gpus() == 0


def test_processes_follow_the_device_of_the_config(smi: Path) -> None:
    assert gpus.default_processes("auto") == gpus.default_processes("cuda") == 2
    assert gpus.default_processes("cpu") == 1
    (smi.parent / "answer").write_text("")
    assert gpus.default_processes("auto") == 1


def test_memory_that_is_shared_with_the_processor_is_unknown(smi: Path) -> None:
    (smi.parent / "answer").write_text("0, NVIDIA GB10, [N/A], [N/A], 580.95\n")
    assert gpus.find_gpus() == [gpus.Gpu("NVIDIA GB10", None, None, "580.95")]


@pytest.mark.parametrize(
    "broken", ["exit 9", "echo 'Failed to initialize NVML: Driver/library version mismatch'"]
)
def test_driver_that_does_not_answer_is_no_gpu(smi: Path, broken: str) -> None:
    smi.write_text(f"#!/usr/bin/env bash\n{broken}\n")
    assert gpus.count_gpus() == 0


def test_without_nvidia_smi_the_drivers_own_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "PROC", tmp_path)
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 83\n")
    assert gpus.find_gpus() == [gpus.Gpu("NVIDIA A100-SXM4-40GB")]


def test_looking_at_torchs_files_agrees_with_torch_and_does_not_import_it() -> None:
    code = (
        "import sys\nfrom pipeline.orchestration import gpus\nbuilt = gpus.torch_is_built_for_gpus()\n"
        "gpus.count_gpus()\nassert 'torch' not in sys.modules\nimport torch\n"
        "assert built == torch.backends.cuda.is_built(), built"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
