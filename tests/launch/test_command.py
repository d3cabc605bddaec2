"""What the command line accepts, refuses and says."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import as_input_error
from stages import __main__ as command
from tests.launch.conftest import CHECKOUT, TINY

HEAVY = ("torch", "numpy", "mlflow", "pydantic", "yaml", "rich", "pyarrow")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIPTYCH_COMMAND", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert command.main(words) == 2
    return capsys.readouterr().err


def modules_after(code: str) -> set[str]:
    script = (
        f"import sys, contextlib, io\nwith contextlib.redirect_stdout(None):\n    {code}\nprint(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    return set(result.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after("from stages.__main__ import main; main(['--help'])")
    assert loaded.isdisjoint(HEAVY)
    assert "pipeline.config" not in loaded


@pytest.mark.parametrize("words", [["status", "configs/demo.yaml"], ["plan", "configs/demo.yaml"]])
def test_plan_and_status_import_neither_torch_nor_mlflow(words: list[str]) -> None:
    loaded = modules_after(f"from stages.__main__ import main; main({words!r})")
    assert loaded.isdisjoint({"torch", "mlflow", "pyarrow", "sklearn"})


def test_supervisor_imports_neither_torch_nor_a_stage() -> None:
    loaded = modules_after("import pipeline.orchestration.supervisor")
    assert loaded.isdisjoint({"torch", "mlflow", "stages", "numpy"})


def test_help_lists_every_command_with_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    from stages import commands

    assert command.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in command.HELP:
        assert f"  {name} " in overview
        assert name == "test" or callable(getattr(commands, command._function(name)))
    assert "examples:" in overview


@pytest.mark.parametrize("name", [name for name in command.HELP if name != "test"])
def test_every_command_explains_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"])
    assert ended.value.code == 0
    assert f"triptych {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "triptych: rnu: no such command; did you mean run?"),
        (
            ["run", "tiny.yaml", "--nprok", "2"],
            "triptych: run: unknown argument --nprok; did you mean --nproc?",
        ),
        (
            ["run", "tiny.yaml", "--from", "trian"],
            "triptych: --from trian: no such stage; did you mean train?",
        ),
        (
            ["run", "tiny.yaml", "--force", "x"],
            "triptych: --force x: no such stage; stages are shard, train, ",
        ),
        (
            ["run", "tiny.yaml", "--from", "adapt", "--until", "train"],
            "triptych: --from adapt comes after --until train",
        ),
        (["train", "tiny.yaml", "--force", "shard"], "triptych: --force shard: that stage is not asked for"),
        (
            ["train", "tiny.yaml"],
            "triptych: cannot run\n  train: needs shard, which is not done (no result yet)",
        ),
        (["run", "tiny.yaml", "--nproc", "3"], "triptych: train.batch 64 cannot be divided among --nproc 3"),
        (["plan", "tniy.yaml"], "triptych: tniy.yaml: no such config file; did you mean tiny.yaml?"),
        (
            ["plan", "tiny.yaml", "--root", "tiny.yaml"],
            "triptych: --root tiny.yaml: is a file, not a directory",
        ),
        (["config"], "triptych: config: name a config file, or ask for --help-fields"),
        (["clean", "tiny.yaml"], "triptych: runs/tiny: there is no such run; nothing to clean"),
    ],
)
def test_wrong_words_are_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *words).startswith(said)


@pytest.mark.parametrize("words", [["run"], ["run", "tiny.yaml", "--nproc", "zero"], ["plan", "a", "--set"]])
def test_missing_or_malformed_arguments_exit_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("name", "value"), [("NNODES", "2"), ("MAX_RESTARTS", "often"), ("NPROC_PER_NODE", "-1")]
)
def test_environment_that_cannot_be_followed_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name}={value}" in refused(capsys, "run", "tiny.yaml")


def test_dry_run_only_shows_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["run", "tiny.yaml", "--dry-run"]) == 0
    assert "shard       run    no result yet" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_status_before_anything_ran_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["status", "tiny.yaml", "--set", "seed=3", "--root", "my runs"]) == 0
    assert "next: triptych run tiny.yaml --set seed=3 --root 'my runs'" in capsys.readouterr().out


def test_messages_use_the_words_that_called_us(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIPTYCH_COMMAND", "./launch.sh")
    assert "`./launch.sh --help`" in refused(capsys, "rnu")


def test_config_prints_what_loads_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["config", "tiny.yaml", "--set", "train.samples=7"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert command.main(["config", "again.yaml"]) == 0
    assert "samples: 7" in capsys.readouterr().out
    assert command.main(["config", "--help-fields"]) == 0
    assert "train.batch: int > 0 = 64\n    Global batch" in capsys.readouterr().out


def test_doctor_reports_every_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert command.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("python", "torch", "bf16", "gpu", "cores", "memory", "disk"):
        assert f"  {name}:" in said
    assert "http://127.0.0.1:9 does NOT answer" in said
    assert "secret" not in said


def test_other_package_of_our_name_is_pointed_out(tmp_path: Path) -> None:
    """A copy of ours under the same name stands for whatever else may be called `pipeline`."""
    (tmp_path / "pipeline").mkdir()
    for name in ("__init__.py", "errors.py"):
        (tmp_path / "pipeline" / name).write_text((CHECKOUT / "pipeline" / name).read_text())
    script = f"""
import sys
sys.path[1:1] = [{str(tmp_path)!r}]
import pipeline
sys.path[1] = {str(CHECKOUT)!r}
from stages.__main__ import main
sys.exit(main(["--help"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "another package named `pipeline`" in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "runs/a.tar"),
            "runs/a.tar: the disk is full; free some space",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (
            PermissionError(13, "Permission denied", "runs"),
            "runs: permission denied; make it writable or choose another",
        ),
        (OSError(30, "Read-only file system", "runs"), "runs: the file system is read-only"),
    ],
)
def test_what_the_system_refuses_is_said_with_the_remedy(error: Exception, said: str) -> None:
    assert str(as_input_error(error)).startswith(said)


def test_programming_errors_are_not_disguised() -> None:
    assert as_input_error(ValueError("shapes differ")) is None
    assert as_input_error(FileNotFoundError(2, "No such file", "x")) is None
