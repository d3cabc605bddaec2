"""Which held-out samples are examples to adapt to, and which are only measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from pipeline.errors import InputError

MIN_QUERY = 5
"""Fewer held-out samples to measure on say nothing."""


@dataclass(frozen=True)
class Episodes:
    """Rows of the held-out split; no support row is a query row.

    Attributes:
        query: The same for every episode, so that episodes compare.
        support: One longest support per draw; k examples are its first k.
    """

    query: Int[np.ndarray, " query"]
    support: tuple[Int[np.ndarray, " shot"], ...]


def draw_episodes(heldout: int, shots: Sequence[int], draws: int, query: int, seed: int) -> Episodes:
    """Split held-out rows; supports of different draws share no row if there are enough.

    Args:
        heldout: Samples in the split.
        shots: Support sizes.
        draws: Supports per size.
        query: Most rows to measure on.
        seed: Decides everything.

    Raises:
        InputError: If there are too few samples for the longest support and a query.
    """
    longest = max(shots)
    if heldout < longest + MIN_QUERY:
        raise InputError(
            f"adapt.shots: {longest} examples and at least {MIN_QUERY} samples to measure on need "
            f"{longest + MIN_QUERY} held-out samples, but there are {heldout}; "
            "lower adapt.shots or hold out more with data.held_out"
        )
    order = np.random.default_rng([seed, heldout]).permutation(heldout)
    reserved = max(longest, min(longest * draws, heldout // 2))
    count = min(query, heldout - reserved)
    rest = order[count:]
    if len(rest) >= longest * draws:
        support = tuple(rest[draw * longest : (draw + 1) * longest] for draw in range(draws))
    else:
        support = tuple(
            np.random.default_rng([seed, heldout, draw + 1]).permutation(rest)[:longest]
            for draw in range(draws)
        )
    return Episodes(order[:count], support)
