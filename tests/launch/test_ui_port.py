"""`triptych ui --port`: exactly the port that was asked for, or a word why not."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.orchestration import mlflow_ui
from stages import __main__ as command


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mlflow.db").touch()
    return tmp_path


def test_port_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(mlflow_ui, "serve", lambda *given: asked.append(given) or 0)
    assert command.main(["ui", "--root", str(tmp_path), "--port", "8123"]) == 0
    assert command.main(["ui", "--root", str(tmp_path)]) == 0
    assert asked == [(tmp_path, None, 8123), (tmp_path, None, None)]


def test_a_taken_port_is_refused_when_it_was_asked_for(
    root: Path, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["ui", "--root", str(root), "--port", str(taken)]) == 2
    assert capsys.readouterr().err == (f"triptych: port {taken} is taken; choose another with --port\n")


def test_without_a_wish_the_next_free_port_is_taken(taken: int) -> None:
    assert mlflow_ui._free_port(taken, 20) > taken
    with pytest.raises(InputError, match=f"port {taken} is taken"):
        mlflow_ui._free_port(taken, 1)


@pytest.mark.parametrize("word", ["0", "65536", "-1", "five"])
def test_what_is_no_port_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["ui", f"--port={word}"])
    assert ended.value.code == 2
    assert "ports are 1 to 65535" in capsys.readouterr().err
