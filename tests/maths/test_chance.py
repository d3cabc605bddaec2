"""Scores with their chance level and interval."""

import numpy as np
import pytest
from planted_codes import CASES, draw_factors, planted

from pipeline.metrics.chance import interpretability_scores
from pipeline.metrics.disentanglement import mutual_information_gap

NAMES = ("dci_d", "dci_c", "dci_i", "mig")


def test_informative_code_lies_far_above_chance_and_inside_its_interval():
    scores = _scores("noisy_0.3")
    for name in NAMES:
        assert scores[f"{name}_floor"] < 0.3 * scores[name]
        assert scores[f"{name}_lo"] < scores[name] < scores[f"{name}_hi"]
        assert scores[f"{name}_hi"] - scores[f"{name}_lo"] < 0.1
    assert (scores["active_units"], scores["active_units_lo"], scores["active_units_hi"]) == (4, 4, 4)


@pytest.mark.parametrize("name", ["noise", "constant"])
def test_code_that_knows_nothing_scores_its_floor(name):
    scores = _scores(name)
    for score in NAMES:
        assert scores[score] == pytest.approx(scores[f"{score}_floor"], abs=0.03)
    assert scores["active_units"] == (4 if name == "noise" else 0)


@pytest.mark.slow
def test_interval_is_as_wide_as_the_scores_of_other_samples_are_spread():
    fresh = np.array([mutual_information_gap(*_draw(seed)) for seed in range(200)])
    distance = np.abs(fresh - fresh.mean())
    covered = []
    for seed in range(4):  # one interval of few resamples covers anything from 80 to 97 %
        scores = interpretability_scores(*_draw(1000 + seed), permutations=0, bootstrap=30)
        covered.append(np.mean(distance < (scores["mig_hi"] - scores["mig_lo"]) / 2))
    assert 0.86 < np.mean(covered) < 0.98


def test_the_seed_decides_everything():
    one, again, other = (_scores("noisy_0.3", samples=500, bootstrap=4, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_without_factors_only_active_units_are_counted():
    code = planted("perfect").codes[:500]
    scores = interpretability_scores(code, None, permutations=3, bootstrap=3)
    assert set(scores) == {"active_units", "active_units_lo", "active_units_hi"}


def test_nothing_is_claimed_that_was_not_computed():
    case = planted("perfect")
    scores = interpretability_scores(case.codes[:500], case.factors[:500], permutations=0, bootstrap=0)
    assert set(scores) == {*NAMES, "active_units"}


def test_every_resample_is_reported():
    case = planted("perfect")
    calls = []
    interpretability_scores(
        case.codes[:200], case.factors[:200], permutations=2, bootstrap=3, done=lambda: calls.append(1)
    )
    assert len(calls) == 6


def _scores(name, *, samples=3000, bootstrap=10, seed=0):
    case = planted("perfect" if name == "constant" else name)
    code = np.ones_like(case.codes) if name == "constant" else case.codes
    return interpretability_scores(
        code[:samples],
        case.factors[:samples],
        permutations=5,
        bootstrap=bootstrap,
        seed=seed,
    )


def _draw(seed):
    stream = np.random.RandomState(seed)
    factors = draw_factors(500, stream)
    return CASES["noisy_0.3"](factors, stream), factors
