import copy

import numpy as np
import pytest
import torch
from small_systems import BATCH, batches, begin, names, rules, updates

from pipeline.data.batch import Batch
from pipeline.training import validation
from pipeline.training.checkpoint import TrainingState
from pipeline.training.checkpoint_files import Score
from pipeline.training.validation import Chunk, is_validated, own_chunks, validate, validation_rows

WITH_LOSS = [name for name in names() if name != "gan"]


def chunks(dtype: torch.dtype = torch.float64, count: int = 3) -> list[Chunk]:
    def kept(batch: Batch) -> Chunk:
        return Chunk(int(batch.index[0]) // BATCH, lambda: batch)

    made = []
    for number, batch in enumerate(batches(dtype, 100, 100 + count)):
        batch.index.add_(number * BATCH)
        made.append(kept(batch))
    return made


def score(name: str, state: TrainingState, parts: list[Chunk]) -> float:
    return validate(state, rules(name), parts, lambda values: values).values["val_loss"]


@pytest.fixture(autouse=True)
def rows_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "ROWS", BATCH)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_the_loss_is_the_same_each_time_and_leaves_training_as_it_was(name: str) -> None:
    state = begin(name, torch.float64)
    before = copy.deepcopy([state.average.state_dict(), state.model.state_dict(), torch.get_rng_state()])
    modes = [module.training for module in state.average.modules()]
    parts = chunks()
    first = score(name, state, parts)
    assert np.isfinite(first)
    assert score(name, state, parts) == first
    state.samples_seen = 24
    assert score(name, state, parts) == first  # beta and capacities are those of the end
    after = [state.average.state_dict(), state.model.state_dict(), torch.get_rng_state()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert [module.training for module in state.average.modules()] == modes


@pytest.mark.parametrize("name", ["vae", "free_bits", "dropout"])
def test_parts_add_up_whoever_measures_them(name: str) -> None:
    state, parts = begin(name, torch.float64), chunks()
    whole = score(name, state, parts)
    first, second = (own_chunks(parts, rank, 2) for rank in (0, 1))
    assert [len(first), len(second)] == [2, 2]  # a divided model is run equally often by all
    sums = validation._sums(state, rules(name), second)
    shared = validate(state, rules(name), first, lambda values: values + sums).values["val_loss"]
    assert shared == pytest.approx(whole, rel=1e-7)


def test_the_averaged_weights_are_measured_and_the_lowest_remembered() -> None:
    state, parts = begin("vae", torch.float64), chunks()
    update = updates("vae", state)
    losses = []
    for batch in batches(torch.float64, 0, 4):
        update(batch)
        state.samples_seen += BATCH
        found = validate(state, rules("vae"), parts, lambda values: values)
        losses.append(found.values["val_loss"])
        assert found.best == (losses[-1] == min(losses))
        assert state.best == Score(BATCH * (1 + int(np.argmin(losses))), min(losses))
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.zero_()
    assert score("vae", state, parts) == losses[-1]
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter.add_(0.3)
    assert validate(state, rules("vae"), parts, lambda values: values).values["val_loss"] > losses[-1]
    assert state.best.samples_seen == BATCH * (1 + int(np.argmin(losses)))


def test_a_model_is_a_candidate_from_the_end_of_the_discriminators_ramp_on() -> None:
    state, parts = begin("vaegan", torch.float64), chunks(count=1)
    for seen, candidate in ((0, False), (8, False), (16, True)):
        state.samples_seen = seen
        found = validate(state, rules("vaegan"), parts, lambda values: values)
        assert "val_loss" in found.values
        assert found.best == candidate


def test_a_system_without_encoders_has_no_loss_on_samples() -> None:
    assert [name for name in names() if not is_validated(rules(name))] == ["gan"]


def test_rows_are_evenly_spaced_and_each_is_taken_once() -> None:
    assert validation_rows(10, 4) == [0, 2, 5, 7]
    assert validation_rows(3, 128) == [0, 1, 2]
    assert validation_rows(0, 128) == []
    assert own_chunks([], 1, 2) == []
