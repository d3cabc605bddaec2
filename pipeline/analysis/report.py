"""One self-contained page: a slider per latent that moves all modalities, and what the numbers say."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from pipeline.analysis.colour import class_colour, depth_bar, depth_range_m
from pipeline.analysis.naming import Effect
from pipeline.analysis.scene import CAPTIONS, Picture, scene_pictures
from pipeline.analysis.traversal import Latent, Traversal, Usage
from pipeline.analysis.views import Views
from pipeline.data.modality import MODALITIES, DatasetInfo

CELL_PX = 96
"""Largest side of a picture in the page, which holds hundreds."""

JPEG_QUALITY = 88

Sheet = Literal["photo", "flat"]
SHEETS: dict[Sheet, tuple[str, ...]] = {"photo": ("rgb", "depth"), "flat": ("seg",)}
"""Modalities drawn into one image: smooth ones as JPEG, flat colours as PNG."""

SCORES = {
    "dci_d": ("Disentanglement", "DCI: each latent is about one factor"),
    "dci_c": ("Completeness", "DCI: each factor is in one latent"),
    "dci_i": ("Informativeness", "DCI: accuracy with which factors are read from the latents"),
    "mig": ("MIG", "lead of each factor\N{RIGHT SINGLE QUOTATION MARK}s best latent over its second best"),
    "active_units": ("Active units", "shared latents whose posterior mean moves with the scene"),
}


@dataclass(frozen=True)
class Card:
    """What the page says about one latent.

    Attributes:
        traversal: Its pictures and its effect.
        kl_nats: Mean KL to the prior.
        tells: Per factor the mutual information as a share of the factor's entropy.
    """

    traversal: Traversal
    kl_nats: float
    tells: Float[np.ndarray, " factor"]


def render_report(
    cards: Sequence[Card],
    info: DatasetInfo,
    *,
    run_name: str,
    shared: int,
    scores: Mapping[str, float],
    factors: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The page as HTML text, which loads nothing from anywhere.

    Args:
        cards: Latents in the order they are shown; at least one.
        info: The dataset.
        run_name: For the title.
        shared: How many shared latents the model has.
        scores: From `interpretability_scores`.
        factors: Names of the factors in `Card.tells`; empty where none are known.
        notes: Paragraphs at the end, before those that explain the numbers.
    """
    title = f"Latents of {run_name}"
    data = {
        "title": title,
        "lead": _lead(cards, shared, scores),
        "steps": len(cards[0].traversal.positions),
        "anchors": len(cards[0].traversal.views),
        "modalities": _modalities(cards[0].traversal.views[0], info),
        "depth": _depth_key(info),
        "classes": [
            {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(label))}
            for label, name in enumerate(info.class_names)
        ],
        "scores": [_score(name, scores, shared) for name in SCORES if name in scores],
        "factors": list(factors),
        "latents": [_latent(card, info, factors) for card in cards],
        "notes": [*notes, *_explanations(cards, scores)],
    }
    template = files("pipeline.analysis").joinpath("report.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("{{title}}", html.escape(title), 1).replace("{{data}}", text, 1)


def latent_facts(
    cards: Sequence[Card], usage: Usage, factors: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """What the page says, for programs: every latent's use, and the effect of those in `cards`."""
    by_column = {card.traversal.latent.column: card for card in cards}

    def facts(latent: Latent) -> dict[str, Any]:
        known: dict[str, Any] = {
            "key": latent.key,
            "private_to": latent.group or None,
            "kl_nats": round(float(usage.kl_nats[latent.column]), 6),
            "low": round(float(usage.low[latent.column]), 6),
            "high": round(float(usage.high[latent.column]), 6),
        }
        if card := by_column.get(latent.column):
            known["effect"] = asdict(card.traversal.effect)
            shares = zip(factors, card.tells, strict=True)
            known["tells"] = {name: round(float(share), 6) for name, share in shares}
        return known

    return {"latents": [facts(latent) for latent in usage.latents]}


def _lead(cards: Sequence[Card], shared: int, scores: Mapping[str, float]) -> str:
    named = sum(card.traversal.effect.kind == "named" for card in cards)
    active = round(scores["active_units"])
    return (
        f"{active} of {shared} shared latents are in use. Below are the {len(cards)} busiest of all latents; "
        f"{named} of them do something that has a name. Move a slider: everything else about the scene stays "
        "as it is."
    )


def _latent(card: Card, info: DatasetInfo, factors: Sequence[str]) -> dict[str, Any]:
    traversal = card.traversal
    return {
        "key": traversal.latent.key,
        "title": traversal.latent.title,
        "kl_nats": round(card.kl_nats, 4),
        "effect": {"kind": traversal.effect.kind, "name": traversal.effect.name},
        "detail": _detail(traversal.effect, card.tells, factors),
        "positions": [round(position, 4) for position in traversal.positions],
        "tells": [round(float(share), 4) for share in card.tells],
        "sheets": [_sheets(views, info) for views in traversal.views],
    }


def _detail(effect: Effect, tells: Float[np.ndarray, " factor"], factors: Sequence[str]) -> str:
    parts = []
    if effect.kind == "named":
        parts.append(f"alike in {effect.consistency:.0%} of {effect.scenes} scenes".replace("%", " %"))
    elif effect.kind == "unclear":
        parts.append("changes the scene, but differently from scene to scene")
    if known := strongest_factor(tells, factors):
        parts.append(f"tells {100 * known[1]:.0f} % of {known[0]}")
    return " \N{MIDDLE DOT} ".join(parts)


def strongest_factor(tells: Float[np.ndarray, " factor"], factors: Sequence[str]) -> tuple[str, float] | None:
    """The factor a latent tells most about and the share of its entropy; None when under 5 %."""
    best = int(np.argmax(tells)) if len(factors) else -1
    return (factors[best], float(tells[best])) if best >= 0 and tells[best] >= 0.05 else None


def _explanations(cards: Sequence[Card], scores: Mapping[str, float]) -> list[str]:
    """What the numbers mean and what they do not."""
    texts = [
        "The ends of a slider are the 2.5 and 97.5 percentiles of the aggregate posterior, the range that is "
        "in use. A latent is named after what changes most from end to end, measured in more scenes than are "
        "shown and compared with how much the same quantity differs between scenes of the dataset; it is "
        "unclear when fewer than three quarters of the scenes change in the same direction."
    ]
    if "dci_d" in scores:
        texts.append(
            "Chance is the mean score with the factors shuffled among the samples: a score means as much as "
            "it lies above that. DCI here uses a few extremely randomised trees: compare it with other runs "
            "of this program, not with numbers in papers. MIG does not notice two factors that share a "
            "latent, and one far outlier can pull it down to 0."
        )
        if any(card.traversal.latent.group for card in cards):
            texts.append(
                "Scores are of the shared latents alone. What only one modality shows, such as colour, may "
                "be in its private latents; the table of factors lists those too."
            )
    return texts


def _score(name: str, scores: Mapping[str, float], shared: int) -> dict[str, Any]:
    title, meaning = SCORES[name]
    return {
        "title": title,
        "meaning": meaning,
        "value": scores[name],
        "low": scores.get(f"{name}_lo"),
        "high": scores.get(f"{name}_hi"),
        "floor": scores.get(f"{name}_floor"),
        "limit": shared if name == "active_units" else 1,
    }


def _modalities(views: Views, info: DatasetInfo) -> list[dict[str, Any]]:
    """Where each modality is found: which sheet, which of its rows."""
    present = set(scene_pictures(views, 0, info))
    found: list[dict[str, Any]] = []
    for sheet, names in SHEETS.items():
        rows = [name for name in names if name in present]
        found += [
            {"name": name, "title": CAPTIONS[name], "sheet": sheet, "row": row, "rows": len(rows)}
            for row, name in enumerate(rows)
        ]
    return sorted(found, key=lambda entry: MODALITIES.index(entry["name"]))


def _sheets(views: Views, info: DatasetInfo) -> dict[str, str]:
    """One image per sheet: a column per position, a row per modality."""
    scenes = [scene_pictures(views, step, info) for step in range(len(views))]
    sheets: dict[str, str] = {}
    for sheet, names in SHEETS.items():
        rows = [[_cell(scene[name], sheet) for scene in scenes] for name in names if name in scenes[0]]
        if rows:
            sheets[sheet] = _data_uri(np.concatenate([np.concatenate(row, axis=1) for row in rows]), sheet)
    return sheets


def _cell(picture: Picture, sheet: Sheet) -> Picture:
    if max(picture.shape[:2]) <= CELL_PX:
        return picture
    method = Image.Resampling.BOX if sheet == "photo" else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((CELL_PX, CELL_PX), method))


def _depth_key(info: DatasetInfo) -> dict[str, Any] | None:
    if info.depth is None:
        return None
    low_m, high_m = depth_range_m(info.depth)
    return {"low_m": low_m, "high_m": high_m, "bar": _data_uri(depth_bar(128, 1), "flat")}


def _data_uri(picture: Picture, sheet: Sheet) -> str:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if sheet == "photo":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    media = "jpeg" if sheet == "photo" else "png"
    return f"data:image/{media};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
