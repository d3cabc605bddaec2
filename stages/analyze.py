"""Find out what each latent means: scores against known factors, traversals, and a page to explore them."""

import json
import time
from collections.abc import Mapping
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
from pipeline.analysis.traversal import Traversal, Usage, latent_layout, latent_usage, traverse
from pipeline.analysis.views import Views
from pipeline.config.schema import Analyze
from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import DatasetInfo
from pipeline.metrics.chance import interpretability_scores
from pipeline.metrics.disentanglement import factor_entropy, mutual_information
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import load_pretrained, posterior_mean
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
    model, info = pretrained.model, pretrained.info
    dataset = ShardedDataset(context.inputs["dataset"])
    latents = latent_layout(model.latent, model.private)
    encoded = _encode(model, info, dataset, config.samples, context)
    encoded_s = time.monotonic()
    scores = _score(encoded, model.latent, config, context)
    scored_s = time.monotonic()
    rng = np.random.default_rng((context.seed, _QUANTILES))
    usage = latent_usage(latents, encoded.mean, encoded.logvar, rng)
    traversals = _traverse(model, info, encoded, usage, config, context)
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
    model: SharedLatentAutoencoder, info: DatasetInfo, dataset: ShardedDataset, samples: int, context: Context
) -> Encoded:
    """Test samples, and training samples where those are too few, evenly spread over each split."""
    chosen = _choose({split: dataset.length(split) for split in ("test", "train")}, samples)
    means, logvars, measured, factors = [], [], [], []
    context.progress.start("encode", sum(len(rows) for rows in chosen.values()), "samples")
    for split, rows in chosen.items():
        for start in range(0, len(rows), BATCH):
            batch = dataset.read(split, rows[start : start + BATCH])
            mean, logvar = _posterior(model, batch)
            means.append(mean)
            logvars.append(logvar)
            measured.append(measure(batch_views(batch), info.class_names))
            factors.append(
                np.empty((len(batch), 0), np.int64) if batch.factors is None else batch.factors.numpy()
            )
            context.progress.advance(len(batch))
    context.progress.finish()
    values = np.concatenate(factors)
    varies = [bool(np.ptp(column) > 0) for column in values.T]
    names = [factor.name.replace("_", " ") for factor in info.factors][: values.shape[1]]
    counts = " and ".join(f"{len(rows):,} {split} samples" for split, rows in chosen.items() if len(rows))
    notes = [f"Measured on {counts}, each encoded from every modality it has."]
    if model.posterior_kind in ("deterministic", "none"):
        notes.append("Codes are points here: what is called their KL is half the square of the code.")
    if constant := [name for name, varying in zip(names, varies, strict=True) if not varying]:
        notes.append(f"Left out, because all samples have the same value: {', '.join(constant)}.")
    return Encoded(
        np.concatenate(means),
        np.concatenate(logvars),
        np.concatenate(measured),
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


def _score(encoded: Encoded, shared: int, config: Analyze, context: Context) -> dict[str, float]:
    enough = len(encoded.mean) >= FEWEST_SAMPLES and len(encoded.factor_names) > 0
    context.progress.start(
        "score", 1 + config.bootstrap + (config.permutations if enough else 0), "resamples"
    )
    scores = interpretability_scores(
        encoded.mean[:, :shared],
        encoded.factors if enough else None,
        permutations=config.permutations,
        bootstrap=config.bootstrap,
        seed=context.seed,
        done=context.progress.advance,
    )
    context.progress.finish()
    return scores


def _traverse(
    model: SharedLatentAutoencoder,
    info: DatasetInfo,
    encoded: Encoded,
    usage: Usage,
    config: Analyze,
    context: Context,
) -> list[Traversal]:
    """The busiest latents, each through the same scenes."""
    rng = np.random.default_rng((context.seed, _ANCHORS))
    anchors = encoded.mean[rng.permutation(len(encoded.mean))[: max(NAMING_SCENES, config.anchors)]]
    named = quantities(_decode(model, anchors[:1]), info.class_names)
    deviation = spread(encoded.measured, named)
    chosen = usage.busiest(config.traversal_latents)
    return [
        traverse(
            lambda codes: _decode(model, codes),
            anchors,
            latent,
            usage,
            steps=config.traversal_steps,
            shown=config.anchors,
            class_names=info.class_names,
            deviation=deviation,
            named=named,
        )
        for latent in context.progress.track(chosen, "traverse", len(chosen), "latents")
    ]


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
        posterior, _, _ = posterior_mean(model, batch, model.modalities)
    parts = [posterior.shared, *(posterior.private[name] for name in model.private)]
    mean, logvar = torch.cat([part.mean for part in parts], 1), torch.cat([part.logvar for part in parts], 1)
    if model.posterior_kind in ("deterministic", "none"):
        logvar = torch.zeros_like(logvar)
    return mean.float().numpy(), logvar.float().numpy()


def _decode(model: SharedLatentAutoencoder, codes: Float32[np.ndarray, "scene latent"]) -> Views:
    sizes = [model.latent, *model.private.values()]
    shared, *private = torch.split(torch.from_numpy(codes), sizes, dim=1)
    with torch.inference_mode():
        return decoded_views(model, model.decode(shared, dict(zip(model.private, private, strict=True))))
