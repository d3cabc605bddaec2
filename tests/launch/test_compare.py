"""A comparison with fake stages in real processes: order, caching, interruption, refusals."""

import json
import re
import signal
from typing import Any

import pytest

from tests.launch.conftest import Terminal

PAIR = ("compare", "tiny.yaml", "--systems", "vae,gan", "--seeds", "2")


def said(terminal: Terminal, root: str = "runs") -> dict[str, Any]:
    path = terminal.directory / root / "tiny-compare/comparison.json"
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def heads(err: str) -> list[str]:
    """Which runs were announced, in order."""
    return re.findall(r"compare \[\d+/\d+\] (\S+?):? ?(?:complete|about.*)?$", err, re.MULTILINE)


def nothing_was_written(terminal: Terminal) -> bool:
    return not (terminal.directory / "runs").exists()


@pytest.mark.slow
def test_every_system_runs_once_per_seed_and_the_same_command_again_runs_nothing(terminal: Terminal) -> None:
    first = terminal.type(*PAIR)
    assert first.returncode == 0, first.stderr
    assert heads(first.stderr) == ["tiny-vae-s0", "tiny-gan-s0", "tiny-vae-s1", "tiny-gan-s1"]
    assert first.stderr.count("shard: run") == 1, "systems with the same data share it"
    assert len(list((terminal.directory / "runs/datasets").glob("[0-9a-f]*"))) == 1
    assert "adapt" not in first.stderr
    assert re.search(r"\[2/4\] tiny-gan-s0: about \d+ min left", first.stderr)
    values = said(terminal)
    assert list(values["runs"]) == ["tiny-vae-s0", "tiny-vae-s1", "tiny-gan-s0", "tiny-gan-s1"]
    assert values["runs"]["tiny-gan-s1"]["metrics"]["score"] == 1.5
    assert values["systems"]["gan"]["mean"]["score"] == 1.5
    names = {path.name for path in (terminal.directory / "runs/tiny-compare").iterdir()}
    assert {"comparison.json", "comparison.png", "table.md"} <= names

    again = terminal.type(*PAIR)
    assert again.returncode == 0
    assert again.stderr.count(": complete") == 4
    assert "shard:" not in again.stderr
    assert again.stdout == first.stdout
    printed = terminal.type(*PAIR, "--json")
    assert json.loads(printed.stdout) == values

    more = terminal.type(*PAIR[:-1], "3")
    assert more.stderr.count(": complete") == 4
    assert said(terminal)["seeds"] == [0, 1, 2]
    seed = json.loads((terminal.directory / "runs/tiny-gan-s2/train/stage.json").read_text())["config"][
        "seed"
    ]
    assert seed == 2


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_interrupted_comparison_goes_on_to_the_same_numbers(terminal: Terminal, kill: bool) -> None:
    calm = terminal.type(*PAIR, "--root", "calm")
    assert calm.returncode == 0, calm.stderr
    process = terminal.start(*PAIR, FAKE_GATE="train")
    terminal.await_file("runs/tiny-vae-s0/train/saved.txt")
    if kill:
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if kill else 75)
    terminal.await_no_process()
    again = terminal.type(*PAIR)
    assert again.returncode == 0, again.stderr
    assert "train: continue (interrupted)" in again.stderr
    for run in said(terminal)["runs"].values():
        run["metrics"] = {name: value for name, value in run["metrics"].items() if name.startswith("score")}
        assert run["metrics"]
    assert list(said(terminal)["runs"]) == list(said(terminal, "calm")["runs"])
    model = "tiny-vae-s0/train/model.safetensors"
    assert (terminal.directory / "runs" / model).read_bytes() == (
        terminal.directory / "calm" / model
    ).read_bytes()


@pytest.mark.slow
def test_system_that_fails_is_a_result_and_the_others_go_on(terminal: Terminal) -> None:
    (terminal.directory / "gan.yaml").write_text("model: {posterior: deterministic, fusion: joint}\n")
    terminal.type("shard", "tiny.yaml")
    failing = terminal.type(*PAIR, FAKE_FAIL="evaluate")
    assert failing.returncode == 1
    assert failing.stderr.count("has no result; the others go on") == 4
    assert "evaluate failed: RuntimeError: the fake stage fails as told" in failing.stdout
    assert said(terminal)["runs"]["tiny-gan-s1"]["failure"].startswith("evaluate failed: RuntimeError")
    assert terminal.type(*PAIR).returncode == 0
    assert said(terminal)["runs"]["tiny-gan-s1"]["failure"] == ""


@pytest.mark.slow
def test_data_that_cannot_be_read_end_it_at_once(terminal: Terminal) -> None:
    message = terminal.refused(*PAIR, FAKE_REFUSE="shard")
    assert message.count("frame_0003.png: the image is truncated") == 1
    assert not (terminal.directory / "runs/tiny-gan-s0").exists()


@pytest.mark.slow
def test_contradictions_of_all_systems_are_told_at_once_before_anything_is_written(
    terminal: Terminal,
) -> None:
    message = terminal.refused(
        "compare", "tiny.yaml", "--systems", "vae,ae,avb", "--set", "model.fusion=poe", "--seeds", "1"
    )
    assert "with a vae" not in message
    assert "ae.yaml: 1 mistake in the config" in message
    assert "avb.yaml: 1 mistake in the config" in message
    assert "choose model.fusion: joint" in message
    assert "vae.yaml" not in message
    assert nothing_was_written(terminal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("systems", "told"),
    [
        ("vea", "--systems vea: no such system; did you mean vae? There are aae, ae, avb, betatc,"),
        ("quantum", "--systems quantum: no such system; There are aae,"),
        ("ae,vae,ae", "ae is named twice; keep one"),
        ("ae,./vae.yaml,vae", "vae is named twice"),
        (",", "name at least one of aae, ae,"),
        ("./mine.yaml", "mine.yaml: no such config file"),
    ],
)
def test_unknown_system_is_refused_with_what_there_is(terminal: Terminal, systems: str, told: str) -> None:
    assert told in terminal.refused("compare", "tiny.yaml", "--systems", systems)
    assert nothing_was_written(terminal)


@pytest.mark.slow
def test_overlay_of_ones_own_is_a_system(terminal: Terminal) -> None:
    (terminal.directory / "big.yaml").write_text("model: {latent: 64}\n")
    result = terminal.type("compare", "tiny.yaml", "--systems", "vae,./big.yaml", "--seeds", "1")
    assert result.returncode == 0, result.stderr
    assert list(said(terminal)["systems"]) == ["vae", "big"]
    config = (terminal.directory / "runs/tiny-big-s0/config.yaml").read_text()
    assert "latent: 64" in config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("train: {samples: 512}", "train.samples"),
        ("data: {image_size: 128}", "data"),
        ("evaluate: {nll_samples: 1}", "evaluate"),
    ],
)
def test_system_that_changes_the_terms_is_refused(terminal: Terminal, text: str, what: str) -> None:
    (terminal.directory / "big.yaml").write_text(text)
    message = terminal.refused("compare", "tiny.yaml", "--systems", "vae,./big.yaml")
    assert f"big.yaml: {what} differs from that of vae" in message
    assert nothing_was_written(terminal)


@pytest.mark.slow
def test_dry_run_says_what_would_be_done_and_writes_nothing(terminal: Terminal) -> None:
    result = terminal.type(*PAIR, "--dry-run")
    assert result.returncode == 0
    assert re.search(r"tiny-gan-s1 +run +run +run", result.stdout)
    assert nothing_was_written(terminal)
    plans = json.loads(terminal.type(*PAIR, "--dry-run", "--json").stdout)
    assert plans["tiny-vae-s0"] == {"shard": "run", "train": "run", "evaluate": "run"}


@pytest.mark.slow
def test_directories_of_another_config_are_not_taken_over(terminal: Terminal) -> None:
    assert terminal.type(*PAIR[:-1], "1").returncode == 0
    (terminal.directory / "copy.yaml").write_text("extends: tiny.yaml\ntrain: {learning_rate: 1}")
    message = terminal.refused("compare", "copy.yaml", "--systems", "vae,gan", "--seeds", "1")
    assert "runs/tiny-compare: holds a run of another config" in message
    (terminal.directory / "same.yaml").write_text("extends: tiny.yaml\nname: tiny-vae-s0\nseed: 7")
    assert terminal.type("shard", "same.yaml", "--root", "other").returncode == 0
    assert terminal.type("train", "same.yaml", "--root", "other").returncode == 0
    message = terminal.refused(*PAIR, "--root", "other")
    assert "other/tiny-vae-s0: holds a run of another config" in message
    assert not (terminal.directory / "other/tiny-compare").exists()


@pytest.mark.slow
def test_member_is_a_run_like_any_other(terminal: Terminal) -> None:
    assert terminal.type(*PAIR[:-1], "1").returncode == 0
    result = terminal.type("run", "runs/tiny-gan-s0/config.yaml", "--until", "evaluate")
    assert result.stderr.count("skip (complete)") == 3


@pytest.mark.slow
def test_uneven_batch_is_refused_before_anything_is_written(terminal: Terminal) -> None:
    message = terminal.refused(*PAIR, "--nproc", "3")
    assert "train.batch 64 cannot be divided among --nproc 3" in message
    assert nothing_was_written(terminal)
