"""What a latent does to decoded scenes, in plain words, or that there are no plain words for it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.analysis.measure import SCENE, SMALLEST_CHANGE, Property, Quantity, over_scenes

WORDS: dict[Property, tuple[str, str]] = {
    "area": ("smaller", "larger"),
    "across": ("moves left", "moves right"),
    "down": ("moves up", "moves down"),
    "depth_m": ("nearer", "farther"),
    "lightness": ("darker", "lighter"),
    "red_green": ("greener", "redder"),
    "yellow_blue": ("bluer", "yellower"),
}
"""What each property's falling and rising is called."""

VISIBLE = 0.5
"""Smallest change, in standard deviations over the dataset, that is worth a name."""

CONSISTENT = 0.75
"""Share of the scenes that must change in the direction of the name."""

FEWEST_SCENES = 4
"""A quantity known in fewer of the scenes is left out."""

TIE = 0.85
"""Changes of at least this share of the largest compete with it: where an object grows, what is behind
it shrinks, and where two quantities always vary together, so do their changes."""

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Effect:
    """What happens from the low to the high end of a latent.

    Attributes:
        kind: `named`; `unclear`: something changes, but not alike in most scenes; `none`: nothing
            visible changes.
        name: For people: "cube larger: +12 % of the image", "unclear", "little visible change".
        quantity: What changes most in the mean over scenes; None when nothing visible does.
        change: Of that quantity, in its unit, mean over scenes.
        deviations: The same in standard deviations of the quantity over the dataset.
        consistency: Share of the scenes that change in that direction.
        scenes: How many scenes it could be measured in.
    """

    kind: Literal["named", "unclear", "none"]
    name: str
    quantity: Quantity | None = None
    change: float = 0.0
    deviations: float = 0.0
    consistency: float = 0.0
    scenes: int = 0


def name_effect(
    low: Float[np.ndarray, "scene quantity"],
    high: Float[np.ndarray, "scene quantity"],
    deviation: Float[np.ndarray, " quantity"],
    named: tuple[Quantity, ...],
) -> Effect:
    """Name what changes most, compared with how much it differs between scenes of the dataset.

    Args:
        low: Measured with the latent at its low end, all others as each scene has them.
        high: The same scenes with the latent at its high end.
        deviation: How much each quantity varies over the dataset.
        named: What the columns are.
    """
    change = _change(low, high, named)
    known = np.isfinite(change)
    scenes = known.sum(axis=0)
    change = np.where(scenes >= FEWEST_SCENES, change, np.nan)
    standardised = change / deviation
    amount = over_scenes(np.nanmean, change)
    seen = np.abs(amount) >= [SMALLEST_CHANGE[quantity.property] for quantity in named]
    mean = np.where(seen, over_scenes(np.nanmean, standardised), 0.0)
    strength = np.sqrt(over_scenes(np.nanmean, np.square(standardised)))
    if strength.max(initial=0.0) < VISIBLE:
        return Effect("none", "little visible change")
    agreeing = (known & (np.sign(change) == np.sign(mean))).sum(axis=0)
    consistency = agreeing / np.maximum(scenes, 1)
    clear = (np.abs(mean) >= VISIBLE) & (consistency >= CONSISTENT)
    rivals = np.abs(mean) >= TIE * np.abs(mean).max()
    best = int(np.argmax(np.where(rivals, _prominence(amount, low, named), -1.0)))
    name = _sentence(
        _regions_alike(best, mean, clear, scenes, named), named[best].property, float(amount[best])
    )
    return Effect(
        kind="named" if clear[best] else "unclear",
        name=name if clear[best] else "unclear",
        quantity=named[best],
        change=float(amount[best]),
        deviations=float(mean[best]),
        consistency=float(consistency[best]),
        scenes=int(scenes[best]),
    )


def _change(
    low: Float[np.ndarray, "scene quantity"],
    high: Float[np.ndarray, "scene quantity"],
    named: tuple[Quantity, ...],
) -> Float[np.ndarray, "scene quantity"]:
    """High minus low; a class that is there at one end only grew from or shrank to nothing."""
    change: Float[np.ndarray, "scene quantity"] = high - low
    for column, quantity in enumerate(named):
        if quantity.property == "area":
            pair = np.stack([low[:, column], high[:, column]])
            grown = np.diff(np.nan_to_num(pair), axis=0)[0]
            change[:, column] = np.where(np.isnan(pair).all(axis=0), np.nan, grown)
    return change


def _prominence(
    amount: Float[np.ndarray, " quantity"],
    low: Float[np.ndarray, "scene quantity"],
    named: tuple[Quantity, ...],
) -> Float[np.ndarray, " quantity"]:
    """Which of two equal changes a person would name: the more visible, of the smaller region."""
    typical = over_scenes(np.nanmean, low)
    size = {q.region: typical[column] for column, q in enumerate(named) if q.property == "area"}
    visible = [SMALLEST_CHANGE[q.property] * (size.get(q.region, 1.0) or 1.0) for q in named]
    prominence: Float[np.ndarray, " quantity"] = np.abs(amount) / np.array(visible)
    return prominence


def _regions_alike(
    best: int,
    mean: Float[np.ndarray, " quantity"],
    clear: Bool[np.ndarray, " quantity"],
    scenes: Int[np.ndarray, " quantity"],
    named: tuple[Quantity, ...],
) -> list[str]:
    """The region of the strongest change and those that clearly do the same at least half as much."""
    if named[best].region == SCENE:
        return [SCENE]
    alike = [
        quantity.region
        for index, quantity in enumerate(named)
        if quantity.property == named[best].property
        and quantity.region != SCENE
        and (index == best or (clear[index] and mean[index] / mean[best] > 0.5))
    ]
    everything = {
        quantity.region
        for quantity, count in zip(named, scenes, strict=True)
        if count >= FEWEST_SCENES and quantity.region != SCENE
    }
    return [SCENE] if len(alike) == len(everything) > 1 else alike


def _sentence(regions: list[str], name: Property, change: float) -> str:
    """Which regions, what they do, and by how much."""
    if len(regions) > 3:
        subject = f"{len(regions)} classes"
    else:
        subject = " and ".join([", ".join(regions[:-1]), regions[-1]] if regions[1:] else regions)
    verb = WORDS[name][int(change > 0.0)]
    if len(regions) > 1:
        verb = verb.replace("moves", "move")
    sign = "+" if change > 0.0 else _MINUS
    size = abs(change)
    match name:
        case "area":
            amount = f"{sign}{100 * size:.1f} % of the image"
        case "across" | "down":
            amount = f"{100 * size:.1f} % of the image"
        case "depth_m":
            amount = f"{sign}{size:.2f} m"
        case _:
            amount = f"{size:.2f}"
    return f"{subject} {verb}: {amount}"
