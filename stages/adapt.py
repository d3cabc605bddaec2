"""Adapt the trained model to a few held-out examples; measure what that gains and what it costs."""

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from pipeline.analysis.adaptation import draw_adaptation
from pipeline.analysis.decoded import batch_views, decoded_views
from pipeline.analysis.grid import save_png
from pipeline.analysis.views import Views
from pipeline.config.schema import Adapt
from pipeline.config.system import has_likelihood
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.errors import InputError
from pipeline.metrics.fewshot import nll_under_prior
from pipeline.models.adapters import AdapterDescription, save_adapter
from pipeline.models.encoded import Encoded, encoded
from pipeline.models.pretrained import Pretrained, load_pretrained, model_digest
from pipeline.models.prior import PRIOR_FILE, fit_aggregate_prior, prior_of, prior_tensors, save_prior
from pipeline.models.variables import Decoded
from pipeline.orchestration.shares import Result, Shares, Task
from pipeline.orchestration.stage import Context, Manifest
from pipeline.training.episode import Outcome, Situation, generate, make_subject, run_episode, score
from pipeline.training.episodes import draw_episodes

REPLAY_SAMPLES = 512
"""Training samples that are encoded: to rehearse, and to fit the prior before adaptation."""

ENCODED_AT_ONCE = 64

PICTURED = 5
"""Scenes in each part of the picture."""


def run(config: Adapt, context: Context) -> Manifest:
    """For every k and draw: adapt, measure, keep the adapter and the re-fit prior; for every k a picture.

    Each episode is a part, so an interrupted stage goes on with the next one.

    Raises:
        InputError: If nothing, or too little, is held out.
    """
    started_s = time.monotonic()
    dataset = ShardedDataset(context.inputs["dataset"])
    pretrained = load_pretrained(context.inputs["train"])
    supports, query = _heldout(config, context.seed, pretrained, dataset)
    shares = Shares(context)

    @cache
    def situation() -> Situation:
        return _situation(config, context.seed, pretrained, dataset, query)

    def adapt(number: int) -> Result:
        shots, draw = episodes[number]
        support = supports[draw].rows(torch.arange(shots))
        seed = int(np.random.SeedSequence([context.seed, shots, draw]).generate_state(1)[0])
        note = f"k={shots}, draw {draw + 1} of {config.draws}"

        def after_step(loss: float) -> None:
            shares.advance(1, f"{note}, loss {loss:.0f}")

        outcome = run_episode(situation(), support, config, seed, after_step)
        return outcome_arrays(pretrained, outcome, PICTURED if draw == 0 else 0)

    episodes = [(shots, draw) for shots in config.shots for draw in range(config.draws)]
    steps = 1 if config.fast else config.steps
    task = Task("adapt", [steps] * len(episodes), adapt, "steps")
    shares.make(task)
    if not context.world.is_main:
        return Manifest()
    metrics = _before(situation())
    done = dict(zip(episodes, shares.results(task), strict=True))
    for (shots, draw), result in done.items():
        _keep(context, config, result, supports[draw].batch.key[:shots], f"k{shots}-draw{draw}")
    for shots in config.shots:
        results = [done[shots, draw] for draw in range(config.draws)]
        metrics |= {f"k{shots}/{name}": value for name, value in _over_draws(results).items()}
        picture = context.directory / "pictures" / f"adaptation-k{shots}.png"
        _draw(picture, situation(), shots, supports[0], results[0])
    if not has_likelihood(pretrained.model_config, pretrained.objective):
        metrics = {name: value for name, value in metrics.items() if not name.endswith("nll_nats")}
    return Manifest(
        metrics=metrics,
        headline=tuple(
            f"k{shots}/{name}" for shots in config.shots for name in ("gain_nats", "gain_nats_se")
        ),
        outputs={"adapters": "adapters", "pictures": "pictures"},
        timing={"adapt_s": time.monotonic() - started_s},
    )


def _heldout(
    config: Adapt, seed: int, pretrained: Pretrained, dataset: ShardedDataset
) -> tuple[list[Encoded], Encoded]:
    """The longest support of every draw, and the query.

    Raises:
        InputError: If nothing is held out.
    """
    held_out = dataset.length("heldout")
    if not held_out:
        raise InputError(
            "adapt: the dataset has no held-out samples to adapt to; name some in data.held_out, "
            "for example --set 'data.held_out.factors={shape: [capsule]}'"
        )
    episodes = draw_episodes(held_out, config.shots, config.draws, config.query, seed)
    supports = [_encode(pretrained, dataset, "heldout", rows) for rows in episodes.support]
    return supports, _encode(pretrained, dataset, "heldout", episodes.query)


def _situation(
    config: Adapt, seed: int, pretrained: Pretrained, dataset: ShardedDataset, query: Encoded
) -> Situation:
    model = pretrained.model
    replay = _encode(pretrained, dataset, "train", _some_rows(dataset, "train", REPLAY_SAMPLES, seed))
    source = _encode(pretrained, dataset, "test", _some_rows(dataset, "test", config.query, seed))
    posterior = replay.posterior(model)
    query_subject = make_subject(pretrained, query, config.nll_importance, seed)
    source_subject = make_subject(pretrained, source, config.nll_importance, seed + 1)
    prior = fit_aggregate_prior(posterior.shared, posterior.private, replay.present(model))
    return Situation(
        pretrained=pretrained,
        prior=prior,
        replay=replay,
        query=query_subject,
        source=source_subject,
        query_before=score(pretrained, query_subject),
        source_before=score(pretrained, source_subject),
        generated_before=generate(pretrained, prior, seed),
        seed=seed,
    )


def _some_rows(dataset: ShardedDataset, split: str, count: int, seed: int) -> Int[np.ndarray, " row"]:
    total = dataset.length(split)
    if not total:
        raise InputError(
            f"adapt: the dataset has no {split} samples; change data.test_fraction and shard again"
        )
    return np.sort(np.random.default_rng([seed, total]).permutation(total)[:count])


def _encode(
    pretrained: Pretrained, dataset: ShardedDataset, split: str, rows: Int[np.ndarray, " row"]
) -> Encoded:
    starts = range(0, len(rows), ENCODED_AT_ONCE)
    return encoded(
        pretrained.model, (dataset.read(split, rows[start : start + ENCODED_AT_ONCE]) for start in starts)
    )


def _before(situation: Situation) -> dict[str, float]:
    """Scores of the source model, under the prior that fits its training set."""
    query, source = (
        float(nll_under_prior(part.reconstruction, subject.proposal, situation.prior).mean())
        for part, subject in (
            (situation.query_before, situation.query),
            (situation.source_before, situation.source),
        )
    )
    scores = {"nll_nats": query, "source_nll_nats": source} | situation.query_before.fidelity
    return {f"k0/{name}": value for name, value in scores.items()}


def outcome_arrays(pretrained: Pretrained, outcome: Outcome, shown: int) -> dict[str, np.ndarray]:
    """All that is kept of an episode, and its first few scenes if they are to be shown."""
    arrays = {f"metrics/{name}": np.array(value) for name, value in outcome.metrics.items()}
    arrays |= {f"adapter/{name}": tensor.numpy() for name, tensor in outcome.adapter.items()}
    arrays |= {f"prior/{name}": tensor.numpy() for name, tensor in prior_tensors(outcome.prior).items()}
    arrays["gain_nats"] = outcome.gain_nats.numpy()
    if shown:
        for name, decoded in (("generated", outcome.generated), ("query", outcome.reconstructions)):
            views = decoded_views(pretrained.model, decoded)[:shown]
            arrays |= {f"{name}/{part}": array for part, array in views.arrays().items()}
    return arrays


def _over_draws(results: Sequence[Result]) -> dict[str, float]:
    """Means over draws; the gain with its standard error over draws and over query samples."""
    gain = torch.stack([torch.from_numpy(result["gain_nats"]) for result in results]).double()
    per_draw, per_sample = gain.mean(dim=1), gain.mean(dim=0)
    variance = sum(float(part.var()) / len(part) for part in (per_draw, per_sample) if len(part) > 1)
    metrics = {"gain_nats": float(gain.mean()), "gain_nats_se": variance**0.5}
    metrics["improved_share"] = float((gain > 0).double().mean())
    for name in _named("metrics", results[0]):
        metrics[name] = float(np.mean([float(result[f"metrics/{name}"]) for result in results]))
    return metrics


def _keep(context: Context, config: Adapt, result: Result, support: tuple[str, ...], name: str) -> None:
    """Write what it takes to use the adapted model: adapter and prior, beside the source model."""
    directory = context.directory / "adapters" / name
    digest = model_digest(context.inputs["train"])
    save_adapter(directory, AdapterDescription(config.rank, digest, support), _tensors("adapter", result))
    save_prior(directory / PRIOR_FILE, prior_of(_tensors("prior", result)))


def _draw(path: Path, situation: Situation, shots: int, support: Encoded, result: Result) -> None:
    pretrained = situation.pretrained

    def views(decoded: Decoded) -> Views:
        return decoded_views(pretrained.model, decoded)[:PICTURED]

    examples, query = (batch_views(part.batch)[:PICTURED] for part in (support, situation.query.samples))
    generated, reconstructed = (Views(**_named(name, result)) for name in ("generated", "query"))
    picture = draw_adaptation(
        pretrained.info,
        shots,
        (examples[: min(shots, PICTURED)], views(situation.generated_before), generated),
        (query, views(situation.query_before.decoded), reconstructed),
        PICTURED,
    )
    save_png(path, picture)


def _named(prefix: str, result: Result) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{prefix}/"): array
        for name, array in result.items()
        if name.startswith(f"{prefix}/")
    }


def _tensors(prefix: str, result: Result) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in _named(prefix, result).items()}
