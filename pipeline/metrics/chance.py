"""What a disentanglement score is worth: its value, its chance level and its interval."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from pipeline.metrics.disentanglement import (
    Codes,
    Factors,
    active_units,
    dci,
    mutual_information_gap,
)

Rows = Int[np.ndarray, " row"]
Scores = dict[str, float]
Resample = tuple[int, int]
"""Purpose, and number among those of the same purpose."""

INTERVAL_PERCENT = (2.5, 97.5)
FIT_SHARE = 0.5
_SPLIT, _PERMUTE, _RESAMPLE = range(3)


def interpretability_scores(
    codes: Codes,
    factors: Factors | None,
    *,
    permutations: int = 20,
    bootstrap: int = 50,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Scores:
    """DCI (`fast`), MIG and active units, each with what chance gives and how sure it is.

    `<score>_floor` is the mean over permutations of the factors among the samples: what a code
    that knows nothing would get. `<score>_lo` and `_hi` are the 2.5 and 97.5 percentiles over
    samples drawn again with replacement, moved so that their mean is the score itself (a sample
    drawn twice makes every code look a little better).

    Args:
        codes: Posterior means.
        factors: Integer values; every factor has at least two. None: only active units are counted.
        permutations: For the floor; 0: none is given.
        bootstrap: For the interval; 0: none is given.
        seed: Of the split between fitting and testing, of permutations, resamples and trees.
        done: Called once for each score computed, `1 + permutations + bootstrap` times (without
            factors nothing is permuted).

    Returns:
        Keys dci_d, dci_c, dci_i, mig and active_units with their suffixes. Active units have no
        floor: they do not look at factors.

    Source: permutation chance level and bootstrap percentiles as in Efron & Tibshirani 1993.
    """
    scores = []
    for resample in resamples(0 if factors is None else permutations, bootstrap):
        scores.append(score_resample(codes, factors, resample, seed))
        done()
    return summary(scores, 0 if factors is None else permutations)


def resamples(permutations: int, bootstrap: int) -> list[Resample]:
    """What `interpretability_scores` scores: the samples as they are, permuted factors, samples drawn again.

    Each is scored by itself, so several processes can share them.
    """
    return [
        (_SPLIT, 0),
        *((_PERMUTE, number) for number in range(permutations)),
        *((_RESAMPLE, number) for number in range(bootstrap)),
    ]


def score_resample(codes: Codes, factors: Factors | None, resample: Resample, seed: int) -> Scores:
    """DCI, MIG and active units of one of the `resamples`."""
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(codes))
    fit, test = np.split(order, [round(FIT_SHARE * len(codes))])
    rng = np.random.default_rng((seed, *resample))
    if resample[0] == _PERMUTE and factors is not None:
        factors = factors[rng.permutation(len(factors))]
    elif resample[0] == _RESAMPLE:
        fit, test = rng.choice(fit, len(fit)), rng.choice(test, len(test))
    return _scores(codes, factors, fit, test, int(rng.integers(2**31)))


def summary(scores: Sequence[Scores], permutations: int) -> Scores:
    """From the scores of all `resamples`, in their order, to what `interpretability_scores` returns."""
    permuted, resampled = scores[1 : 1 + permutations], scores[1 + permutations :]
    found: Scores = {}
    for name, score in scores[0].items():
        found[name] = score
        if permuted and name != "active_units":
            found[f"{name}_floor"] = float(np.mean([scores[name] for scores in permuted]))
        if resampled:
            again = np.array([scores[name] for scores in resampled])
            low, high = np.percentile(again - again.mean() + score, INTERVAL_PERCENT)
            limit = np.inf if name == "active_units" else 1.0
            found[f"{name}_lo"] = float(np.clip(low, 0.0, limit))
            found[f"{name}_hi"] = float(np.clip(high, 0.0, limit))
    return found


def _scores(codes: Codes, factors: Factors | None, fit: Rows, test: Rows, seed: int) -> Scores:
    rows = np.concatenate([fit, test])
    active = {"active_units": float(active_units(codes[rows]))}
    if factors is None:
        return active
    varies = np.ptp(factors[rows], axis=0) > 0  # a rare value can be missing from a resample
    values = factors[:, varies]
    parts = dci(codes[fit], values[fit], codes[test], values[test], protocol="fast", seed=seed)
    return {
        "dci_d": parts.disentanglement,
        "dci_c": parts.completeness,
        "dci_i": parts.informativeness,
        "mig": mutual_information_gap(codes[rows], values[rows]),
        **active,
    }
