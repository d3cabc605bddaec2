"""The kill test of benchmarks/chaos.py in short: three kills in a run of two stages, and the same bytes."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SHORT = (
    *("--until", "train", "--set", "data.source.count=60"),
    *("--set", "train.samples=320", "--set", "train.checkpoint_samples=80"),
    *("--set", "objective.adversary.start_samples=80", "--set", "objective.adversary.warmup_samples=80"),
    *("--set", "objective.adversary.ramp_samples=80"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed inside a shard, one in the middle of a file of a checkpoint, all as it is named."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    chaos, checks, runs = (__import__(name) for name in ("chaos", "chaos_checks", "chaos_runs"))
    whole = runs.Command(tmp_path / "whole", 1, extra=SHORT)
    whole.trace()
    events = runs.read_events(whole.hooks)
    saved = {event for event in events if event[0] == "train" and "checkpoints/" in event[3]}
    torn = next(event for event in sorted(saved) if event[2] == "write" and "model.safetensors" in event[3])
    named = next(
        event for event in sorted(saved) if event[2] == "rename" and event[3].endswith("checkpoints/#")
    )
    tars = {event for event in events if event[0] == "shard" and event[3].endswith(".tar")}
    sharded = next(event for event in sorted(tars) if event[2] == "write")
    orders = [
        runs.Order(*sharded, count=1, how="before", victim="self"),
        runs.Order(*torn, count=2, how="torn", victim="self"),
        runs.Order(*named, count=1, how="before", victim="tree"),
    ]
    killed, tally = runs.Command(tmp_path / "killed", 1, extra=SHORT), chaos.Tally()
    chaos.one_round(killed, orders, tally)
    assert tally.problems == []
    assert sorted(kill["victim"] for kill in tally.kills) == ["self", "self", "tree"]
    assert tally.rounds[0]["attempts"] == 4
    assert checks.differences(whole.root, killed.root) == []
    found = list((killed.root / "chaos/train").iterdir())
    assert {"model.safetensors", "history.jsonl", "metrics.json"} <= {path.name for path in found}
    model = killed.root / "chaos/train/model.safetensors"
    model.write_bytes(b"")
    assert checks.differences(whole.root, killed.root) == ["chaos/train/model.safetensors has other bytes"]
