import copy
import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import make_batch, make_model

from pipeline.config.model import Model
from pipeline.config.objective import ImageAdversary, Objective
from pipeline.config.training import Train
from pipeline.errors import Interrupted
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.training import history
from pipeline.training import update as update_module
from pipeline.training.checkpoint import TrainingState
from pipeline.training.draws import draw
from pipeline.training.ema import update_average
from pipeline.training.history import Interval
from pipeline.training.loop import NOT_NOW, Cadence, Order, optimise
from pipeline.training.schedule import learning_rate_share, warm_up
from pipeline.training.update import Rules, make_optimizer, make_update

SMALL = Model(latent=6, private={"rgb": 3}, width=8)


def make_state(train: Train, model: SharedLatentAutoencoder | None = None) -> TrainingState:
    model = model or make_model(SMALL)
    return TrainingState(model, copy.deepcopy(model), make_optimizer(model, train))


def make_rules(train: Train) -> Rules:
    return Rules(SMALL, Objective(), train, seed=0)


def test_the_learning_rate_rises_linearly_and_ends_at_its_final_share() -> None:
    def share(seen: int) -> float:
        return learning_rate_share(seen, samples=1000, warmup_samples=100, final_share=0.1)

    assert share(0) == 0.0
    assert share(50) == pytest.approx(0.5, abs=0.01)
    assert share(500) == pytest.approx(0.55)
    assert share(1000) == pytest.approx(0.1)
    assert share(1040) == pytest.approx(0.1)
    assert warm_up(0, 0) == 1.0


def test_half_the_weight_of_the_average_is_one_half_life_old() -> None:
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.zero_()
        model.weight.fill_(1.0)
    for seen in range(64, 1601, 64):
        update_average(average, model, samples_seen=10**9 + seen, batch=64, half_life_samples=1600)
    assert average.weight.item() == pytest.approx(0.5, rel=1e-5)
    update_average(average, model, samples_seen=10**9, batch=64, half_life_samples=0)
    assert average.weight.item() == 1.0


def test_the_average_forgets_the_first_weights_of_a_short_training() -> None:
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(1e6)
        model.weight.fill_(1.0)
    for seen in range(64, 6401, 64):
        update_average(average, model, samples_seen=seen, batch=64, half_life_samples=10**6)
    assert average.weight.item() == pytest.approx(1.0, rel=1e-5)


def test_only_weight_matrices_decay_and_scales_have_their_own_rate() -> None:
    model = make_model(SMALL)
    matrices, vectors, scales = make_optimizer(
        model, Train(weight_decay=0.1, scale_learning_rate=0.5)
    ).param_groups
    assert {p.ndim for p in matrices["params"]} == {2, 4}
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == scales["weight_decay"] == 0.0
    assert scales["peak"] == 0.5
    assert len(scales["params"]) == 2
    grouped = sum(len(group["params"]) for group in (matrices, vectors, scales))
    assert grouped == len(list(model.parameters()))


def test_noise_and_subsets_follow_the_place_in_the_global_batch() -> None:
    model, batch, train = make_model(SMALL), make_batch(8), Train(batch=8)
    objective = Objective(adversary=ImageAdversary(kind="image"))
    whole = draw(model, batch, SMALL, objective, Rules(SMALL, objective, train, 0).place(3))
    halves = [
        draw(
            model,
            batch.rows(4 * rank, 4 * rank + 4),
            SMALL,
            objective,
            Rules(SMALL, objective, train, 0, False, rank, 2).place(3),
        )
        for rank in (0, 1)
    ]
    assert torch.equal(whole.views.given, torch.cat([half.views.given for half in halves], dim=1))
    for name in ("noise", "prior"):
        drawn, parts = getattr(whole, name), [getattr(half, name) for half in halves]
        assert torch.equal(drawn.shared, torch.cat([part.shared for part in parts]))
        assert torch.equal(drawn.private["rgb"], torch.cat([part.private["rgb"] for part in parts]))
    assert not torch.equal(whole.noise.shared, whole.prior.shared)


def test_every_update_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def spy(*arguments: Any) -> Any:
        steps.append(arguments[-1].step)
        return draw(*arguments)

    monkeypatch.setattr(update_module, "draw", spy)
    train = Train(batch=4)
    state = make_state(train)
    state.samples_seen = 12
    update = make_update(state, state.model, make_rules(train))
    for _ in range(2):
        update(make_batch(4))
        state.samples_seen += train.batch
    assert steps == [3, 4]


def test_an_update_reports_its_terms_and_lowers_the_loss() -> None:
    train = Train(batch=8, samples=8 * 40, warmup_samples=0, learning_rate=3e-3)
    state, batch = make_state(train), make_batch(8)
    update = make_update(state, state.model, make_rules(train))
    losses = []
    for _ in range(30):
        report = update(batch)
        state.samples_seen += train.batch
        losses.append(report["loss"])
    assert losses[-1] < 0.9 * losses[0]
    assert set(report) == {
        *("loss", "rgb_nll", "depth_nll", "seg_nll", "kl", "kl_private_rgb", "beta", "learning_rate"),
        *("gradient_norm", "active_units"),
    }


def test_clipping_limits_what_sgd_would_move() -> None:
    moved = {}
    for limit in (None, 1e-12):
        train = Train(batch=4, clip_gradient_norm=limit, warmup_samples=0)
        state = make_state(train)
        before = [p.detach().clone() for p in state.model.parameters()]
        state.optimizer = torch.optim.SGD([{"params": list(state.model.parameters()), "peak": 1e-3}], lr=1e-3)
        make_update(state, state.model, make_rules(train))(make_batch(4))
        pairs = zip(before, state.model.parameters(), strict=True)
        moved[limit] = max((a - b).abs().max().item() for a, b in pairs)
    assert moved[None] > 1e-3
    assert moved[1e-12] < 1e-7


def test_a_loss_that_is_not_a_number_stops_before_anything_changes() -> None:
    train = Train(batch=4)
    state = make_state(train)
    with torch.no_grad():
        state.model.decoders["depth"].head.bias.fill_(torch.nan)
    state.samples_seen = 640
    before = [p.detach().clone() for p in state.average.parameters()]
    with pytest.raises(FloatingPointError, match=r"after 640 samples .*depth_nll = nan"):
        make_update(state, state.model, make_rules(train))(make_batch(4))
    assert all(torch.equal(a, b) for a, b in zip(before, state.average.parameters(), strict=True))
    assert not state.optimizer.state


def run_loop(state: TrainingState, cadence: Cadence, stop_after: int | None = None) -> list[tuple[str, int]]:
    events: list[tuple[str, int]] = []
    calls = iter(range(10**6))
    optimise(
        state,
        lambda batch: {"loss": float(state.samples_seen)},
        iter(make_batch(1) for _ in range(100)),
        cadence,
        log=lambda seen, values: events.append((f"log {values['loss']:.0f}", seen)),
        validate=lambda: NOT_NOW,
        consult=lambda due: Order(due, stop_after is not None and next(calls) >= stop_after),
        save=lambda last: events.append(("save", state.samples_seen)),
        advance=lambda values: None,
    )
    return events


def test_the_loop_logs_averages_and_saves_on_time_and_at_the_end() -> None:
    state = make_state(Train())
    events = run_loop(state, Cadence(samples=100, batch=12, log=24, checkpoint=50))
    assert [seen for name, seen in events if name == "save"] == [60, 108]
    assert [event for event in events if event[0] != "save"] == [
        ("log 6", 24),
        ("log 30", 48),
        ("log 54", 72),
        ("log 78", 96),
        ("log 96", 108),
    ]


def test_a_stop_saves_first() -> None:
    state = make_state(Train())
    with pytest.raises(Interrupted, match="after 36 of 100"):
        run_loop(state, Cadence(samples=100, batch=12, log=24, checkpoint=50), stop_after=2)
    assert state.samples_seen == 36
    assert state.interval == Interval({"loss": 24.0}, 1)


def test_history_forgets_what_came_after_a_checkpoint_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    recorder = history.Recorder(path)
    for seen in (10, 20, 30):
        recorder.append(seen, {"loss": seen / 3})
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write('{"samples_seen": 40, "lo')
    assert [line["samples_seen"] for line in history.read_lines(path)] == [10, 20, 30]
    history.truncate(path, 30)
    assert path.read_bytes() == whole
    history.truncate(path, 20)
    assert [json.loads(line)["samples_seen"] for line in path.read_text().splitlines()] == [10, 20]


def test_lines_that_a_full_disk_refused_are_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, append_at = tmp_path / "history.jsonl", history.append_at
    recorder = history.Recorder(path)

    def full(path: Path, size: int, content: bytes) -> None:
        append_at(path, size, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    recorder.append(10, {"loss": 1.0})
    with monkeypatch.context() as broken:
        broken.setattr(history, "append_at", full)
        for seen in (20, 30):
            recorder.append(seen, {"loss": 1.0})
            assert [line["samples_seen"] for line in history.read_lines(path)][:1] == [10]
        with pytest.raises(OSError, match="No space left"):
            recorder.sync()
    recorder.sync()
    assert [line["samples_seen"] for line in history.read_lines(path)] == [10, 20, 30]
