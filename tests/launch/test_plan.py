"""What would run and why."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.orchestration import plan as orchestration_plan
from pipeline.orchestration.ledger import read_record
from tests.launch.conftest import Run

JUDGED = "{kind: image, start_samples: 0, warmup_samples: 0, ramp_samples: 0}"


def verbs(run: Run, *overrides: str) -> dict[str, str]:
    return {stage: step.verb for stage, step in run.steps(*overrides).items()}


def test_everything_runs_at_first_and_nothing_after(run: Run) -> None:
    assert set(verbs(run).values()) == {"run"}
    assert run.steps()["shard"].reason == "no result yet"
    assert run.steps()["evaluate"].reason == "after shard and train"
    run.finish_all()
    assert set(verbs(run).values()) == {"skip"}


def test_reason_names_the_changed_value_old_and_new(run: Run) -> None:
    run.finish_all()
    steps = run.steps("train.learning_rate=0.002")
    assert steps["shard"].verb == "skip"
    assert (steps["train"].verb, steps["train"].reason) == ("run", "train.learning_rate: 0.001 -> 0.002")
    assert (steps["evaluate"].verb, steps["evaluate"].reason) == ("run", "after train")


def test_value_of_one_late_stage_runs_only_that(run: Run) -> None:
    run.finish_all()
    changed = {stage for stage, verb in verbs(run, "analyze.anchors=5").items() if verb == "run"}
    assert changed == {"analyze"}


def test_value_without_effect_runs_nothing(run: Run) -> None:
    run.finish_all()
    quiet = ["train.log_samples=1", "train.device=cpu", "data.workers=3", "evaluate.batch=7"]
    assert set(verbs(run, *quiet).values()) == {"skip"}


def test_retrained_model_with_the_same_bytes_changes_nothing_later(run: Run) -> None:
    run.finish_all()
    (run.root / "tiny/train/model.json").unlink()
    assert run.steps()["train"].reason.endswith("model.json is missing")
    run.finish("train")
    assert set(verbs(run).values()) == {"skip"}


def test_retrained_model_with_other_bytes_runs_what_read_it(run: Run) -> None:
    run.finish_all()
    run.overrides = ["train.learning_rate=0.002"]
    run.finish("train")
    assert run.steps()["evaluate"].reason == "the trained model changed"


@pytest.mark.parametrize(("adversary", "verb"), [("{kind: none}", "skip"), (JUDGED, "run")])
def test_trainings_against_the_first_image_discriminator_are_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, adversary: str, verb: str
) -> None:
    run.overrides = [f"objective.adversary={adversary}"]
    with monkeypatch.context() as before:
        before.setattr(orchestration_plan, "_version", lambda stage, _: orchestration_plan.VERSIONS[stage])
        run.finish_all()
    step = run.steps()["train"]
    assert step.verb == verb
    assert ("version of train: 1 -> 2" in step.reason) == (verb == "run")


def test_long_lists_of_changes_are_cut(run: Run) -> None:
    run.finish_all()
    many = [
        "train.batch=32",
        "train.learning_rate=1",
        "model.latent=8",
        "objective.beta=2",
        "train.samples=512",
    ]
    assert run.steps(*many)["train"].reason.endswith(", and 2 more")


def test_damaged_result_runs_again_and_says_what_is_wrong(run: Run) -> None:
    run.finish_all()
    (run.root / "tiny/evaluate/result.txt").write_text("cut")
    step = run.steps()["evaluate"]
    assert step.verb == "run"
    assert step.reason.endswith("evaluate/result.txt has 3 bytes instead of 8")


def test_trained_model_that_was_lost_is_continued_from_its_checkpoints(run: Run) -> None:
    run.finish_all()
    (run.root / "tiny/train/model.safetensors").unlink()
    assert run.steps()["train"].verb == "continue"


def test_an_interrupted_stage_continues(run: Run) -> None:
    run.finish("shard")
    run.begin("train")
    step = run.steps()["train"]
    assert (step.verb, step.reason) == ("continue", "interrupted")
    run.finish("train")
    run.begin("evaluate")
    step = run.steps()["evaluate"]
    assert (step.verb, step.reason) == ("continue", "interrupted")


def test_second_run_with_the_same_data_shares_the_dataset(run: Run) -> None:
    run.finish("shard")
    step = run.steps("name=other")["shard"]
    assert step.verb == "skip"
    assert "made with the same data config" in step.reason


def test_adapt_is_left_out_when_nothing_is_held_out(run: Run) -> None:
    step = run.steps("data.held_out.factors={}")["adapt"]
    assert (step.verb, step.reason) == ("skip", "nothing is held out (data.held_out is empty)")


def test_adapt_waits_for_what_a_source_with_splits_of_its_own_holds_out(run: Run) -> None:
    for modality in ("rgb", "seg"):
        (run.root / "captures" / modality).mkdir(parents=True)
    own_splits = f"data.source={{kind: folder, root: {run.root / 'captures'}, meta: meta.json}}"
    step = run.steps(own_splits, "data.held_out.factors={}")["adapt"]
    assert (step.verb, step.reason) == ("run", "after shard and train")


def test_stage_whose_input_is_left_out_and_missing_is_blocked(run: Run) -> None:
    step = run.steps(first="train")["train"]
    assert (step.verb, step.reason) == ("blocked", "needs shard, which is not done (no result yet)")
    run.finish("shard")
    assert run.steps(first="train")["train"].verb == "run"


def test_selection_leaves_out_what_lies_outside(run: Run) -> None:
    steps = run.steps(first="shard", last="train")
    assert [step.verb for step in steps.values()] == ["run", "run", "skip", "skip", "skip", "skip"]


def test_force_runs_a_complete_stage_and_what_follows_from_it(run: Run) -> None:
    run.finish_all()
    steps = run.steps(force=("train",))
    assert (steps["train"].verb, steps["train"].reason) == ("run", "--force")
    assert steps["evaluate"].verb == "run"
    assert steps["shard"].verb == "skip"


def test_superseded_results_stay_beside_the_new(run: Run) -> None:
    run.finish_all()
    old = read_record(run.root / "tiny/train")
    assert old is not None
    run.overrides = ["train.learning_rate=0.002"]
    run.finish("train")
    assert read_record(run.root / f"tiny/train.{old.key[:8]}") == old


def folder_run(run: Run, tmp_path: Path) -> Path:
    frames = tmp_path / "frames"
    (frames / "rgb").mkdir(parents=True)
    (frames / "rgb/1.png").write_bytes(b"one")
    run.overrides = ["data.source={kind: folder, seg: null}", f"data.source.root={frames}"]
    return frames


def test_new_files_in_the_source_folder_are_noticed(run: Run, tmp_path: Path) -> None:
    frames = folder_run(run, tmp_path)
    run.finish("shard")
    assert run.steps()["shard"].verb == "skip"
    (frames / "rgb/2.png").write_bytes(b"two")
    assert run.steps()["shard"].reason == "the source's files changed"


def test_moving_the_source_folder_changes_nothing(run: Run, tmp_path: Path) -> None:
    frames = folder_run(run, tmp_path)
    run.finish("shard")
    frames.rename(tmp_path / "elsewhere")
    assert run.steps(f"data.source.root={tmp_path / 'elsewhere'}")["shard"].verb == "skip"


def test_finished_run_needs_its_source_folder_no_more(run: Run, tmp_path: Path) -> None:
    frames = folder_run(run, tmp_path)
    run.finish("shard")
    frames.rename(tmp_path / "unplugged")
    assert run.steps()["shard"].verb == "skip"


def test_missing_source_folder_is_refused(run: Run, tmp_path: Path) -> None:
    folder_run(run, tmp_path).rename(tmp_path / "unplugged")
    with pytest.raises(InputError, match=r"data\.source\.root: there is no folder .*frames"):
        run.steps()
