"""Adapt the trained model to a few held-out examples; measure what that gains and what it costs."""

import time
from collections.abc import Sequence
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
from pipeline.models.prior import PRIOR_FILE, fit_aggregate_prior, save_prior
from pipeline.models.variables import Decoded
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

    Raises:
        InputError: If nothing, or too little, is held out.
    """
    started_s = time.monotonic()
    dataset = ShardedDataset(context.inputs["dataset"])
    pretrained = load_pretrained(context.inputs["train"])
    supports, query = _heldout(config, context.seed, pretrained, dataset)
    situation = _situation(config, context.seed, pretrained, dataset, query)
    metrics = _before(situation)
    steps = 1 if config.fast else config.steps
    context.progress.start("adapt", len(config.shots) * config.draws * steps, "steps")
    for shots in config.shots:
        outcomes = []
        for draw, examples in enumerate(supports):
            support = examples.rows(torch.arange(shots))
            note = f"k={shots}, draw {draw + 1} of {config.draws}"
            seed = int(np.random.SeedSequence([context.seed, shots, draw]).generate_state(1)[0])

            def after_step(loss: float, note: str = note) -> None:
                context.progress.advance(1, f"{note}, loss {loss:.0f}")

            outcomes.append(run_episode(situation, support, config, seed, after_step))
            _keep(context, config, outcomes[-1], support, f"k{shots}-draw{draw}")
        metrics |= {f"k{shots}/{name}": value for name, value in _over_draws(outcomes).items()}
        _draw(
            context.directory / "pictures" / f"adaptation-k{shots}.png",
            situation,
            shots,
            supports[0],
            outcomes[0],
        )
    context.progress.finish()
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


def _over_draws(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means over draws; the gain with its standard error over draws and over query samples."""
    gain = torch.stack([outcome.gain_nats for outcome in outcomes]).double()
    per_draw, per_sample = gain.mean(dim=1), gain.mean(dim=0)
    variance = sum(float(part.var()) / len(part) for part in (per_draw, per_sample) if len(part) > 1)
    metrics = {"gain_nats": float(gain.mean()), "gain_nats_se": variance**0.5}
    metrics["improved_share"] = float((gain > 0).double().mean())
    for name in outcomes[0].metrics:
        metrics[name] = float(np.mean([outcome.metrics[name] for outcome in outcomes]))
    return metrics


def _keep(context: Context, config: Adapt, outcome: Outcome, support: Encoded, name: str) -> None:
    """Write what it takes to use the adapted model: adapter and prior, beside the source model."""
    directory = context.directory / "adapters" / name
    digest = model_digest(context.inputs["train"])
    save_adapter(directory, AdapterDescription(config.rank, digest, support.batch.key), outcome.adapter)
    save_prior(directory / PRIOR_FILE, outcome.prior)


def _draw(path: Path, situation: Situation, shots: int, support: Encoded, outcome: Outcome) -> None:
    pretrained = situation.pretrained

    def views(decoded: Decoded) -> Views:
        return decoded_views(pretrained.model, decoded)[:PICTURED]

    examples, query = (batch_views(part.batch)[:PICTURED] for part in (support, situation.query.samples))
    picture = draw_adaptation(
        pretrained.info,
        shots,
        (examples[: min(shots, PICTURED)], views(situation.generated_before), views(outcome.generated)),
        (query, views(situation.query_before.decoded), views(outcome.reconstructions)),
        PICTURED,
    )
    save_png(path, picture)
