"""Find out what each latent means: scores against known factors, traversals, and a page to explore them."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from pipeline.analysis.decoded import batch_views, decoded_views
from pipeline.analysis.grid import save_png
from pipeline.analysis.measure import measure, quantities, spread
from pipeline.analysis.report import Card, latent_facts, render_report, strongest_factor
from pipeline.analysis.tiles import draw_overview, draw_tiles
from pipeline.analysis.traversal import (
    Traversal,
    Usage,
    latent_layout,
    latent_usage,
    traversal_arrays,
    traversal_of,
    traverse,
)
from pipeline.analysis.views import Views
from pipeline.config.schema import Analyze
from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import DatasetInfo
from pipeline.metrics.chance import resamples, score_resample, summary
from pipeline.metrics.disentanglement import factor_entropy, mutual_information
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import load_pretrained, posterior_mean
from pipeline.orchestration.distributed import own_device
from pipeline.orchestration.shares import Result, Shares, Task, cut
from pipeline.orchestration.stage import Context, Manifest

BATCH = 100
NAMING_SCENES = 32
"""Scenes that a latent's effect is measured in, of which the first few are shown."""

FEWEST_SAMPLES = 100
"""Fewer say nothing about factors of a dozen values."""

_QUANTILES, _ANCHORS = range(2)


@dataclass(frozen=True)
class Encoded:
    """Samples as the model sees them, given every modality they have.

    Attributes:
        mean: Posterior means, all latents side by side.
        logvar: Posterior log-variances.
        measured: What `measure` finds in the real scenes.
        factors: Values of the factors that vary among the samples; no column where none is known.
        factor_names: Of those columns.
        notes: What a reader of the results should know.
    """

    mean: Float32[np.ndarray, "sample latent"]
    logvar: Float32[np.ndarray, "sample latent"]
    measured: Float[np.ndarray, "sample quantity"]
    factors: Int[np.ndarray, "sample factor"]
    factor_names: tuple[str, ...]
    notes: tuple[str, ...]


def run(config: Analyze, context: Context) -> Manifest:
    """Write `index.html`, `latents.json` and `traversal/`; score the shared latents.

    Raises:
        InputError: If the dataset or the trained model cannot be read.
    """
    started_s = time.monotonic()
    pretrained = load_pretrained(context.inputs["train"])
    model, info = pretrained.model.to(own_device(context.world)), pretrained.info
    shares = Shares(context)
    latents = latent_layout(model.latent, model.private)
    encoded = _encode(model, info, ShardedDataset(context.inputs["dataset"]), config.samples, shares)
    encoded_s = time.monotonic()
    scored = _score(encoded, model.latent, config, context.seed, shares)
    scored_s = time.monotonic()
    rng = np.random.default_rng((context.seed, _QUANTILES))
    usage = latent_usage(latents, encoded.mean, encoded.logvar, rng)
    chosen = usage.busiest(config.traversal_latents)
    moved = _traverse(model, info, encoded, usage, config, context.seed, shares)
    if not context.world.is_main:
        return Manifest()
    scores = _scores(encoded, config, shares.results(scored))
    traversals = [
        traversal_of(latent, part) for latent, part in zip(chosen, shares.results(moved), strict=True)
    ]
    cards = _cards(traversals, usage, encoded)
    _write(cards, info, encoded, usage, scores, model.latent, context)
    metrics = {f"interp/{name}": value for name, value in scores.items()}
    headline = tuple(f"interp/{name}" for name in ("dci_d", "mig", "active_units") if name in scores)
    ended_s = time.monotonic()
    return Manifest(
        metrics=metrics,
        headline=headline,
        outputs={"page": "index.html", "overview": "traversal/overview.png", "latents": "latents.json"},
        timing={
            "encode_s": encoded_s - started_s,
            "score_s": scored_s - encoded_s,
            "traverse_s": ended_s - scored_s,
        },
    )


def _encode(
    model: SharedLatentAutoencoder, info: DatasetInfo, dataset: ShardedDataset, samples: int, shares: Shares
) -> Encoded:
    """Test samples, and training samples where those are too few, evenly spread over each split."""
    chosen = _choose({split: dataset.length(split) for split in ("test", "train")}, samples)
    parts = [(split, rows[part]) for split, rows in chosen.items() for part in cut(len(rows), BATCH)]

    def encode(number: int) -> Result:
        split, rows = parts[number]
        batch = dataset.read(split, rows)
        mean, logvar = _posterior(model, batch)
        values = np.empty((len(batch), 0), np.int64) if batch.factors is None else batch.factors.numpy()
        measured = measure(batch_views(batch), info.class_names)
        return {"mean": mean, "logvar": logvar, "measured": measured, "factors": values}

    task = Task("encode", [len(rows) for _, rows in parts], encode, "samples")
    shares.make(task)
    results = list(shares.results(task))
    found = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    values = found["factors"]
    varies = [bool(np.ptp(column) > 0) for column in values.T]
    names = [factor.name.replace("_", " ") for factor in info.factors][: values.shape[1]]
    counts = " and ".join(f"{len(rows):,} {split} samples" for split, rows in chosen.items() if len(rows))
    notes = [f"Measured on {counts}, each encoded from every modality it has."]
    if model.posterior_kind in ("deterministic", "none"):
        notes.append("Codes are points here: what is called their KL is half the square of the code.")
    if constant := [name for name, varying in zip(names, varies, strict=True) if not varying]:
        notes.append(f"Left out, because all samples have the same value: {', '.join(constant)}.")
    return Encoded(
        found["mean"],
        found["logvar"],
        found["measured"],
        values[:, varies],
        tuple(name for name, varying in zip(names, varies, strict=True) if varying),
        tuple(notes),
    )


def _choose(lengths: dict[str, int], samples: int) -> dict[str, Int[np.ndarray, " row"]]:
    """Rows per split: from the first as many as there are, from the next what is missing."""
    chosen, left = {}, samples
    for split, length in lengths.items():
        count = min(length, left)
        chosen[split] = np.arange(count, dtype=np.int64) * length // max(count, 1)
        left -= count
    return chosen


def _score(encoded: Encoded, shared: int, config: Analyze, seed: int, shares: Shares) -> Task:
    """Every resample is scored by itself; without factors there is nothing to permute."""
    factors = encoded.factors if _tells(encoded) else None
    jobs = resamples(0 if factors is None else config.permutations, config.bootstrap)

    def score(number: int) -> Result:
        found = score_resample(encoded.mean[:, :shared], factors, jobs[number], seed)
        return {name: np.array(value) for name, value in found.items()}

    task = Task("score", [1] * len(jobs), score, "resamples")
    shares.make(task)
    return task


def _scores(encoded: Encoded, config: Analyze, parts: Iterable[Result]) -> dict[str, float]:
    scores = [{name: float(value) for name, value in part.items()} for part in parts]
    return summary(scores, config.permutations if _tells(encoded) else 0)


def _tells(encoded: Encoded) -> bool:
    """Whether there is enough to say something about factors."""
    return len(encoded.mean) >= FEWEST_SAMPLES and len(encoded.factor_names) > 0


def _traverse(
    model: SharedLatentAutoencoder,
    info: DatasetInfo,
    encoded: Encoded,
    usage: Usage,
    config: Analyze,
    seed: int,
    shares: Shares,
) -> Task:
    """The busiest latents, each through the same scenes."""
    rng = np.random.default_rng((seed, _ANCHORS))
    anchors = encoded.mean[rng.permutation(len(encoded.mean))[: max(NAMING_SCENES, config.anchors)]]
    named = quantities(_decode(model, anchors[:1]), info.class_names)
    deviation = spread(encoded.measured, named)
    chosen = usage.busiest(config.traversal_latents)

    def move(number: int) -> Result:
        return traversal_arrays(
            traverse(
                lambda codes: _decode(model, codes),
                anchors,
                chosen[number],
                usage,
                steps=config.traversal_steps,
                shown=config.anchors,
                class_names=info.class_names,
                deviation=deviation,
                named=named,
            )
        )

    task = Task("traverse", [1] * len(chosen), move, "latents")
    shares.make(task)
    return task


def _cards(traversals: list[Traversal], usage: Usage, encoded: Encoded) -> list[Card]:
    tells = np.empty((len(usage.latents), 0))
    if len(encoded.factor_names) > 0:
        tells = mutual_information(encoded.mean, encoded.factors) / factor_entropy(encoded.factors)
    columns = [traversal.latent.column for traversal in traversals]
    return [
        Card(traversal, float(usage.kl_nats[column]), tells[column])
        for traversal, column in zip(traversals, columns, strict=True)
    ]


def _write(
    cards: list[Card],
    info: DatasetInfo,
    encoded: Encoded,
    usage: Usage,
    scores: dict[str, float],
    shared: int,
    context: Context,
) -> None:
    folder = context.directory / "traversal"
    tiles = []
    for card in context.progress.track(cards, "draw", len(cards), "latents"):
        key = card.traversal.latent.key
        for step, tile in enumerate(draw_tiles(card.traversal, card.kl_nats, _note(card, encoded), info)):
            path = folder / key / f"{step:03d}.png"
            save_png(path, tile)
            position = round(card.traversal.positions[step], 6)
            tiles.append({
                "key": f"traversal/{key}",
                "step": step,
                "position": position,
                "path": f"{key}/{path.name}",
            })
    _write_json(folder / "tiles.json", {"tiles": tiles})
    traversals = [card.traversal for card in cards]
    save_png(folder / "overview.png", draw_overview(traversals, info, f"Latents of {context.run_name}"))
    _write_json(context.directory / "latents.json", latent_facts(cards, usage, encoded.factor_names))
    page = render_report(
        cards,
        info,
        run_name=context.run_name,
        shared=shared,
        scores=scores,
        factors=encoded.factor_names,
        notes=encoded.notes,
    )
    (context.directory / "index.html").write_text(page, encoding="utf-8")


def _note(card: Card, encoded: Encoded) -> str:
    """What a tile says about its latent."""
    strongest = strongest_factor(card.tells, encoded.factor_names)
    return card.traversal.effect.name + (f"; tells of {strongest[0]}" if strongest else "")


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _posterior(
    model: SharedLatentAutoencoder, batch: Batch
) -> tuple[Float32[np.ndarray, "sample latent"], Float32[np.ndarray, "sample latent"]]:
    """Means and log-variances of all latents given everything, in the order of a code.

    A point is taken for the mean of a unit Gaussian: its KL to N(0, I) is then half its square.
    """
    with torch.inference_mode():
        device = next(model.parameters()).device
        posterior, _, _ = posterior_mean(model, batch.to(device), model.modalities)
    parts = [posterior.shared, *(posterior.private[name] for name in model.private)]
    mean, logvar = torch.cat([part.mean for part in parts], 1), torch.cat([part.logvar for part in parts], 1)
    if model.posterior_kind in ("deterministic", "none"):
        logvar = torch.zeros_like(logvar)
    return mean.float().numpy(force=True), logvar.float().numpy(force=True)


def _decode(model: SharedLatentAutoencoder, codes: Float32[np.ndarray, "scene latent"]) -> Views:
    sizes = [model.latent, *model.private.values()]
    device = next(model.parameters()).device
    shared, *private = torch.split(torch.from_numpy(codes).to(device), sizes, dim=1)
    with torch.inference_mode():
        return decoded_views(model, model.decode(shared, dict(zip(model.private, private, strict=True))))
