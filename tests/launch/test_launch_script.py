"""launch.sh makes the environment once, whatever happens meanwhile.

A stand-in for Python does what launch.sh asks of it in milliseconds: it says a version, and its
`-m venv` writes a folder whose pip leaves a console script.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

PYTHON = """\
#!/usr/bin/env bash
here=$(dirname -- "$0")
case "$*" in
    *version_info\\[:2\\]*) echo "${FAKE_VERSION:-3 12}" ;;
    *sys.executable*) echo "$0" ;;
    *"import venv"*) exit "${FAKE_VENV:-0}" ;;
    *-venv*) echo python3.12-venv ;;
    --version) echo Python 3.12.0 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        echo "made" >>"$CHECKOUT/pip.calls"
        sleep "${FAKE_PIP_SECONDS:-0}"
        echo "Collecting everything"
        if [[ -n ${FAKE_PIP_ERROR-} ]]; then echo "ERROR: $FAKE_PIP_ERROR"; exit 1; fi
        printf '#!/usr/bin/env bash\\necho "triptych $* as $TRIPTYCH_COMMAND"\\n' >"$here/triptych"
        chmod +x "$here/triptych" ;;
esac
"""


@dataclass
class Clone:
    directory: Path

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.directory / "launch.sh", *words],
            cwd=self.directory,
            env={
                **{name: value for name, value in os.environ.items() if name != "TRIPTYCH_COMMAND"},
                "PYTHON": str(self.directory / "fake/python3"),
                "CHECKOUT": str(self.directory),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def type(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def environments_made(self) -> int:
        calls = self.directory / "pip.calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def await_pip(self) -> None:
        deadline = time.monotonic() + 30
        while self.environments_made() == 0 and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/python3").write_text(PYTHON)
    (tmp_path / "fake/python3").chmod(0o755)
    return Clone(tmp_path)


def test_first_use_makes_the_environment_and_the_second_does_not(clone: Clone) -> None:
    first = clone.type("demo", "--nproc", "2")
    assert first.stdout == f"triptych demo --nproc 2 as {clone.directory}/launch.sh\n"
    assert "making the environment with Python 3.12.0" in first.stderr
    second = clone.type("status", "x")
    assert (second.stdout.split()[:3], second.stderr) == (["triptych", "status", "x"], "")
    assert clone.environments_made() == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_make_a_new_environment_and_remove_the_old(clone: Clone, name: str) -> None:
    clone.type("--help")
    with (clone.directory / name).open("a") as file:
        file.write("# changed\n")
    clone.type("--help")
    assert clone.environments_made() == 2
    assert len([path for path in clone.directory.glob(".venv.*") if path.is_dir()]) == 1


def test_two_terminals_at_once_make_it_once(clone: Clone) -> None:
    both = [clone.start("--help", FAKE_PIP_SECONDS="1") for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert clone.environments_made() == 1
    assert sum("another terminal is making the environment" in text for text in said) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_set_up_is_repeated_from_the_start(clone: Clone, number: signal.Signals) -> None:
    process = clone.start("--help", FAKE_PIP_SECONDS="2")
    clone.await_pip()
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (75 if number != signal.SIGKILL else -signal.SIGKILL)
    assert number == signal.SIGKILL or "set-up interrupted; run the same command again" in err
    assert not (clone.directory / ".venv").exists()
    assert clone.type("--help").returncode == 0
    assert clone.environments_made() == 2


def test_environment_in_use_is_kept_until_its_command_ends(clone: Clone) -> None:
    clone.type("--help")
    script = clone.directory / ".venv/bin/triptych"
    script.write_text("#!/usr/bin/env bash\necho started\nread -r\n")
    old = script.resolve().parents[1]
    process = subprocess.Popen(
        [clone.directory / "launch.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    for turn in (1, 2):
        with (clone.directory / "constraints.txt").open("a") as file:
            file.write("# changed\n")
        clone.type("--help")
        assert old.exists() == (turn == 1)
        process.communicate("end\n" if turn == 1 else None)


@pytest.mark.parametrize("version", ["3 10", "2 7"])
def test_python_that_is_too_old_is_named(clone: Clone, version: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "cat", "cut", "dirname", "readlink", "sha256sum", "env"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    result = clone.type("--help", FAKE_VERSION=version, PATH=str(tmp_path / "bin"))
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed" in result.stderr
    assert f"python3 is {version.replace(' ', '.')}" in result.stderr


def test_missing_venv_module_comes_with_the_package_to_install(clone: Clone) -> None:
    result = clone.type("--help", FAKE_VENV="1")
    assert result.returncode == 2
    assert "has no venv module; on Debian or Ubuntu: sudo apt install python3.12-venv" in result.stderr


def test_failure_of_pip_shows_the_end_of_its_log_and_where_it_is(clone: Clone) -> None:
    result = clone.type("--help", FAKE_PIP_ERROR="No matching distribution found for torch==2.13.0")
    assert result.returncode == 2
    assert "    ERROR: No matching distribution found for torch==2.13.0" in result.stderr
    assert str(clone.directory / ".venv.log") in result.stderr
    assert clone.type("--help").returncode == 0


def test_full_disk_is_named(clone: Clone) -> None:
    result = clone.type("--help", FAKE_PIP_ERROR="[Errno 28] No space left on device")
    assert result.returncode == 2
    assert "the disk is full: the environment needs about 3 GB" in result.stderr
