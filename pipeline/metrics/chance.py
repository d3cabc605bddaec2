"""What a disentanglement score is worth: its value, its chance level and its interval."""

from collections.abc import Callable, Iterator

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
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(codes))
    fit, test = np.split(order, [round(FIT_SHARE * len(codes))])

    def score(purpose: int, number: int) -> Scores:
        rng = np.random.default_rng((seed, purpose, number))
        values, fit_rows, test_rows = factors, fit, test
        if purpose == _PERMUTE and factors is not None:
            values = factors[rng.permutation(len(factors))]
        elif purpose == _RESAMPLE:
            fit_rows, test_rows = rng.choice(fit, len(fit)), rng.choice(test, len(test))
        return _scores(codes, values, fit_rows, test_rows, int(rng.integers(2**31)))

    results: dict[int, list[Scores]] = {_SPLIT: [], _PERMUTE: [], _RESAMPLE: []}
    for purpose, number in _jobs(0 if factors is None else permutations, bootstrap):
        results[purpose].append(score(purpose, number))
        done()
    return _summary(results[_SPLIT][0], results[_PERMUTE], results[_RESAMPLE])


def _jobs(permutations: int, bootstrap: int) -> Iterator[tuple[int, int]]:
    yield _SPLIT, 0
    yield from ((_PERMUTE, number) for number in range(permutations))
    yield from ((_RESAMPLE, number) for number in range(bootstrap))


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


def _summary(value: Scores, permuted: list[Scores], resampled: list[Scores]) -> Scores:
    summary: Scores = {}
    for name, score in value.items():
        summary[name] = score
        if permuted and name != "active_units":
            summary[f"{name}_floor"] = float(np.mean([scores[name] for scores in permuted]))
        if resampled:
            again = np.array([scores[name] for scores in resampled])
            low, high = np.percentile(again - again.mean() + score, INTERVAL_PERCENT)
            limit = np.inf if name == "active_units" else 1.0
            summary[f"{name}_lo"] = float(np.clip(low, 0.0, limit))
            summary[f"{name}_hi"] = float(np.clip(high, 0.0, limit))
    return summary
