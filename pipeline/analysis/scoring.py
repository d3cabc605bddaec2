"""Scores of a model on real scenes, part by part: what parts give is added up in their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.errors import InputError
from pipeline.metrics.fidelity import Fidelity, Prediction, predict
from pipeline.metrics.likelihood import model_nll, noise_rows
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import Pretrained
from pipeline.models.variables import Decoded, Experts, Noise

CONSTANT = "constant"
"""The predictor that every model has to beat, among the sets of given modalities."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scored:
    """What is scored on what.

    Attributes:
        pretrained: The model, on `device`.
        dataset: The test scenes are its.
        device: Where the model computes.
    """

    pretrained: Pretrained
    dataset: ShardedDataset
    device: torch.device


def score_rows(
    scored: Scored, rows: Int64[np.ndarray, " row"], constant: Prediction, *, decode: bool = True
) -> dict[str, np.ndarray]:
    """Compare what is decoded given every subset of modalities, and the constant scene, with some test rows.

    What is decoded is the posterior mean; a subset is scored on the rows that have all of its modalities.
    Rows are encoded once.

    Args:
        scored: The model and the scenes.
        rows: Of the test split.
        constant: The same scene for every row.
        decode: Whether to look at more than the constant scene.

    Returns:
        `<given>/<sum>`, to be added up by `fidelity_metrics`.

    Raises:
        InputError: If a score is not finite.
    """
    info, model = scored.pretrained.info, scored.pretrained.model
    batch = scored.dataset.read("test", rows)
    floor = Fidelity(len(info.class_names))
    floor.update(constant, batch)
    scores = {CONSTANT: floor}
    if decode:
        moved = batch.to(scored.device)
        experts = model.encode(moved)
        for given in given_subsets(info.modalities):
            chosen = has_all(info.modalities, experts.present, given)
            if bool(chosen.any()):
                fidelity = Fidelity(len(info.class_names))
                fidelity.update(predict(model, decode_mean(model, experts, given)), moved, chosen)
                scores["+".join(given)] = fidelity
    refuse_broken({
        f"{given}/{name}": v for given, one in scores.items() for name, v in one.metrics().items()
    })
    return {f"{given}/{name}": sums for given, one in scores.items() for name, sums in one.sums().items()}


def fidelity_metrics(scored: Scored, parts: Iterable[Arrays]) -> dict[str, float]:
    """`<given>/<metric>` of all rows, from what `score_rows` gave for some at a time."""
    info = scored.pretrained.info
    names = [*("+".join(given) for given in given_subsets(info.modalities)), CONSTANT]
    scores = {name: Fidelity(len(info.class_names)) for name in names}
    for part in parts:
        for given, fidelity in scores.items():
            own = {key.removeprefix(f"{given}/"): v for key, v in part.items() if key.startswith(f"{given}/")}
            fidelity.add_sums(own)
    return {f"{given}/{name}": v for given, one in scores.items() for name, v in one.metrics().items()}


def likelihood_of(
    scored: Scored, rows: Int64[np.ndarray, " row"], noise: Sequence[Noise], first: int
) -> dict[str, np.ndarray]:
    """-log p in nats, summed over those of some test rows that have every modality.

    Args:
        scored: The model and the scenes.
        rows: Of the test split.
        noise: Of all rows that are estimated.
        first: The number of the first of these rows among those.

    Raises:
        InputError: If it is not finite.
    """
    batch = scored.dataset.read("test", rows).to(scored.device)
    draws = noise_rows(noise, first, first + len(batch), scored.device)
    complete = batch.present().all(dim=0)
    nats = model_nll(scored.pretrained.model, batch, scored.pretrained.objective, draws)
    total = float(nats[complete].sum())
    refuse_broken({nll_name(scored): total})
    return {"nats": np.array(total), "rows": np.array(int(complete.sum()))}


def likelihood_metrics(scored: Scored, parts: Iterable[Arrays]) -> dict[str, float]:
    """The mean over rows, from what `likelihood_of` gave for some at a time; nothing if there are none."""
    total, count = 0.0, 0
    for part in parts:
        total, count = total + float(part["nats"]), count + int(part["rows"])
    return {nll_name(scored): total / count} if count else {}


def decode_mean(model: SharedLatentAutoencoder, experts: Experts, given: Sequence[str]) -> Decoded:
    """What the posterior mean decodes to; private latents of what is not given are at their prior mean."""
    seen = torch.tensor([name in given for name in model.modalities], device=experts.present.device)
    posterior = model.posterior(experts, seen[:, None].expand_as(experts.present))
    return model.decode(posterior.shared.mean, {name: q.mean for name, q in posterior.private.items()})


def given_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the largest first, each in the order of the modalities."""
    return [subset for size in range(len(modalities), 0, -1) for subset in combinations(modalities, size)]


def has_all(
    modalities: Sequence[str], present: Bool[Tensor, "modality batch"], given: Sequence[str]
) -> Bool[Tensor, " batch"]:
    """Which rows have all that is given."""
    return present[[modalities.index(name) for name in given]].all(dim=0)


def nll_name(scored: Scored) -> str:
    """What the estimate is called."""
    return f"{'+'.join(scored.pretrained.info.modalities)}/nll_nats"


def refuse_broken(metrics: Mapping[str, float]) -> None:
    """Stop at a model that makes no sense.

    Raises:
        InputError: If a number is not finite.
    """
    if broken := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise InputError(
            f"evaluate: {broken[0]} is {metrics[broken[0]]}: the trained model is broken; "
            f"look at its history.jsonl and train again, perhaps with a lower train.learning_rate"
        )
