"""Move one latent, keep all others, and look at every modality at once.

A code is every latent of the model side by side, shared ones first, then the private ones of each
modality; it is one row of an array (scene, latent).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Float32

from pipeline.analysis.measure import Quantity, measure
from pipeline.analysis.naming import Effect, name_effect
from pipeline.analysis.views import Views, joined

Codes = Float32[np.ndarray, "scene latent"]
Decode = Callable[[Codes], Views]

QUANTILES = (0.025, 0.975)
"""Ends of a traversal, in the aggregate posterior: the range that the model uses."""

SHARED = ""
"""The group of latents that every modality is decoded from."""

CHUNK = 96


@dataclass(frozen=True)
class Latent:
    """One dimension of a code.

    Attributes:
        column: In a code.
        group: `SHARED`, or the modality it is private to.
        index: Within the group.
    """

    column: int
    group: str
    index: int

    @property
    def key(self) -> str:
        """What files and tables call it: z07, rgb03."""
        return f"{self.group or 'z'}{self.index:02d}"

    @property
    def title(self) -> str:
        """What people call it: z07, rgb private 03."""
        return f"{self.group} private {self.index:02d}" if self.group else self.key


@dataclass(frozen=True)
class Usage:
    """How the model uses its latents over a dataset.

    Attributes:
        latents: In the order of a code.
        kl_nats: KL(q(z|x) || N(0, 1)), mean over scenes.
        low: Lower end of each latent's traversal.
        high: Upper end.
    """

    latents: tuple[Latent, ...]
    kl_nats: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]

    def busiest(self, count: int) -> tuple[Latent, ...]:
        """The latents with the largest KL: shared ones first, then private ones.

        Private latents get a quarter of the places, and more only if there are too few shared ones:
        what a single modality needs costs many nats, and would leave nothing to see in the others.
        """
        order = [self.latents[column] for column in np.argsort(-self.kl_nats, kind="stable")]
        shared = [latent for latent in order if latent.group == SHARED]
        private = [latent for latent in order if latent.group != SHARED]
        places = max(min(len(private), count // 4), count - len(shared))
        return (*shared[: count - places], *private[:places])


@dataclass(frozen=True)
class Traversal:
    """One latent moved through scenes.

    Attributes:
        latent: Which.
        positions: Its values, from low to high.
        views: For each anchor the decoded scenes, one per position.
        effect: What it does, measured over more scenes than are shown.
    """

    latent: Latent
    positions: tuple[float, ...]
    views: tuple[Views, ...]
    effect: Effect


def traversal_arrays(traversal: Traversal) -> dict[str, np.ndarray]:
    """All but which latent it is, for `traversal_of`."""
    parts = joined(list(traversal.views)).arrays()
    arrays = {f"views/{name}": array for name, array in parts.items()}
    effect = np.frombuffer(json.dumps(asdict(traversal.effect)).encode(), np.uint8)
    return arrays | {"positions": np.array(traversal.positions), "effect": effect}


def traversal_of(latent: Latent, arrays: Mapping[str, np.ndarray]) -> Traversal:
    """The traversal that `traversal_arrays` describes."""
    views = Views(**{
        name.removeprefix("views/"): array for name, array in arrays.items() if name.startswith("views/")
    })
    steps = len(arrays["positions"])
    effect = json.loads(arrays["effect"].tobytes())
    quantity = effect.pop("quantity")
    return Traversal(
        latent,
        tuple(arrays["positions"].tolist()),
        tuple(views[first : first + steps] for first in range(0, len(views), steps)),
        Effect(**effect, quantity=None if quantity is None else Quantity(**quantity)),
    )


def latent_layout(shared: int, private: dict[str, int]) -> tuple[Latent, ...]:
    """The latents of a code in order."""
    groups = {SHARED: shared, **private}
    named = [(group, index) for group, size in groups.items() for index in range(size)]
    return tuple(Latent(column, group, index) for column, (group, index) in enumerate(named))


def latent_usage(latents: tuple[Latent, ...], mean: Codes, logvar: Codes, rng: np.random.Generator) -> Usage:
    """KL and range of each latent from the posteriors of a dataset.

    Quantiles are of the aggregate posterior, the mixture of all posteriors: one draw from each.
    """
    kl = 0.5 * (np.square(mean) + np.exp(logvar) - 1.0 - logvar)
    drawn = mean + np.exp(0.5 * logvar) * rng.standard_normal(mean.shape, dtype=np.float32)
    low, high = np.quantile(drawn, QUANTILES, axis=0)
    return Usage(latents, kl.mean(axis=0, dtype=np.float64), low, high)


def traverse(
    decode: Decode,
    anchors: Codes,
    latent: Latent,
    usage: Usage,
    *,
    steps: int,
    shown: int,
    class_names: tuple[str, ...],
    deviation: Float[np.ndarray, " quantity"],
    named: tuple[Quantity, ...],
) -> Traversal:
    """Decode one latent's traversal and name what it does.

    Args:
        decode: Codes to scenes.
        anchors: Posterior means of the scenes to start from; all serve to name the effect.
        latent: Which to move.
        usage: Its range.
        steps: Positions.
        shown: How many of the anchors to show.
        class_names: Of the labels.
        deviation: How much each quantity varies over the dataset.
        named: What the quantities are.
    """
    low, high = float(usage.low[latent.column]), float(usage.high[latent.column])
    positions = tuple(float(position) for position in np.linspace(low, high, steps))
    ends = [
        measure(_decoded(decode, _moved(anchors, latent, end)), class_names)
        for end in (positions[0], positions[-1])
    ]
    pictured = [
        np.concatenate([_moved(anchors[row : row + 1], latent, position) for position in positions])
        for row in range(min(shown, len(anchors)))
    ]
    views = tuple(_decoded(decode, codes) for codes in pictured)
    return Traversal(latent, positions, views, name_effect(ends[0], ends[1], deviation, named))


def _moved(codes: Codes, latent: Latent, position: float) -> Codes:
    moved = codes.copy()
    moved[:, latent.column] = position
    return moved


def _decoded(decode: Decode, codes: Codes) -> Views:
    return joined([decode(codes[start : start + CHUNK]) for start in range(0, len(codes), CHUNK)])
