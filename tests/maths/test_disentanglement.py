"""Scores of planted codes: values of the standard implementation, and what must not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
from planted_codes import CASES, checksum, draw_factors, planted

from pipeline.metrics.disentanglement import (
    active_units,
    completeness,
    dci,
    disentanglement,
    factor_entropy,
    mutual_information,
    mutual_information_gap,
)

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "disentanglement.json").read_text(encoding="utf-8")
)
EXACT, TREES = 5e-5, 0.02

near = pytest.approx


@pytest.mark.parametrize("name", CASES)
def test_planted_codes_are_those_of_the_reference(name):
    case, expected = planted(name), REFERENCE["cases"][name]
    assert checksum(case.factors) == expected["factors_sha"]
    assert checksum(case.codes) == expected["codes_sha"]
    assert checksum(case.test_codes) == expected["test_codes_sha"]


@pytest.mark.parametrize("name", CASES)
def test_information_and_mig_agree_with_the_standard_implementation(name):
    case, expected = planted(name), REFERENCE["cases"][name]
    information = mutual_information(case.codes, case.factors)
    np.testing.assert_allclose(information, expected["information_nats"], atol=EXACT)
    np.testing.assert_allclose(factor_entropy(case.factors), REFERENCE["factor_entropy_nats"], atol=EXACT)
    for bins, value in expected["mig"].items():
        assert mutual_information_gap(case.codes, case.factors, int(bins)) == near(value, abs=EXACT)


@pytest.mark.parametrize("name", [*REFERENCE["importance"]])
def test_concentration_of_hand_made_importance_agrees_with_the_standard_implementation(name):
    expected = REFERENCE["importance"][name]
    matrix = np.array(expected["matrix"], dtype=np.float64)
    assert disentanglement(matrix) == near(expected["d"], abs=EXACT)
    assert completeness(matrix) == near(expected["c"], abs=EXACT)


@pytest.mark.parametrize("name", CASES)
def test_concentration_of_learned_importance_agrees_with_the_standard_implementation(name):
    expected = REFERENCE["cases"][name]["dci"]
    matrix = np.array(expected["importance"], dtype=np.float64)
    assert disentanglement(matrix) == near(expected["d"], abs=EXACT)
    assert completeness(matrix) == near(expected["c"], abs=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perfect", "merged_two", "noisy_0.3"])  # all agree; these differ most
def test_boosted_tree_dci_agrees_with_the_standard_implementation(name):
    case, expected = planted(name), REFERENCE["cases"][name]["dci"]
    found = dci(case.codes, case.factors, case.test_codes, case.test_factors, protocol="dlib-v1")
    assert found.disentanglement == near(expected["d"], abs=TREES)
    assert found.completeness == near(expected["c"], abs=TREES)
    assert found.informativeness == near(expected["i"], abs=TREES)


# Measured distance of the fast protocol from boosted trees on 1000 samples; only the fully rotated
# code, which takes deep trees to read, is far.
FAST = {name: 0.02 for name in CASES} | {"noisy_0.3": 0.05, "rot_full": 0.11}


@pytest.mark.parametrize("name", CASES)
def test_fast_dci_is_near_boosted_trees(name):
    case, expected = planted(name), REFERENCE["cases"][name]["dci"]
    found = _fast(case.codes[:1000], case)
    assert found.disentanglement == near(expected["d"], abs=FAST[name])
    assert found.completeness == near(expected["c"], abs=FAST[name])
    assert found.informativeness == near(expected["i"], abs=FAST[name])


@pytest.mark.parametrize("name", ["noisy_0.3", "merged_two", "rot45_pairs"])
def test_order_sign_and_scale_of_latents_change_nothing(name):
    case = planted(name)
    order = np.array([2, 0, 3, 1])
    scale = np.array([-8.0, 0.25, 2.0, -0.5])  # powers of two, so that bins keep their edges
    moved = case.codes[:, order] * scale
    assert mutual_information_gap(moved, case.factors) == near(
        mutual_information_gap(case.codes, case.factors), abs=1e-3
    )
    before = _fast(case.codes[:1000], case)
    after = _fast(moved[:1000], case, case.test_codes[:, order] * scale)
    assert after.disentanglement == near(before.disentanglement, abs=0.03)
    assert after.completeness == near(before.completeness, abs=0.03)
    assert after.informativeness == near(before.informativeness, abs=0.03)


def test_one_far_outlier_pulls_the_mig_of_a_perfect_code_to_nothing():
    case = planted("perfect")
    case.codes[0] = 1e4
    assert mutual_information_gap(case.codes, case.factors) < 0.01


@pytest.mark.parametrize(("samples", "floor"), [(200, 0.119), (10_000, 0.002)])
def test_a_code_that_knows_nothing_seems_to_know_what_the_samples_are_too_few_to_tell(samples, floor):
    stream = np.random.RandomState(0)
    factors, codes = draw_factors(samples, stream), stream.randn(samples, 60)
    share = mutual_information(codes, factors) / factor_entropy(factors)
    assert share.mean() == near(floor, rel=0.1, abs=5e-4)


def test_mig_does_not_notice_two_factors_in_one_latent_and_disentanglement_does():
    case = planted("merged_two")
    assert mutual_information_gap(case.codes, case.factors) > 0.98
    assert _fast(case.codes[:1000], case).disentanglement == near(0.75, abs=0.02)


def test_constant_code_tells_nothing():
    case = planted("perfect")
    constant = np.ones_like(case.codes)
    assert mutual_information_gap(constant, case.factors) == near(0.0, abs=1e-12)
    found = _fast(constant[:1000], case, np.ones_like(case.test_codes))
    assert found.disentanglement == near(0.0, abs=1e-6)
    assert found.completeness == near(0.0, abs=1e-6)
    assert found.informativeness < 1 / 3


def test_single_latent_leads_by_all_it_knows():
    case = planted("perfect")
    gap = mutual_information_gap(case.codes[:, :1], case.factors[:, :1])
    assert gap == near(1.0, abs=1e-9)


def test_factor_with_one_value_is_refused():
    case = planted("perfect")
    case.factors[:, 2] = 1
    with pytest.raises(ValueError, match="one value only"):
        mutual_information_gap(case.codes, case.factors)


def test_active_units_counts_means_that_vary():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((5000, 4)) * np.sqrt([1.0, 0.02, 0.005, 0.0])
    assert active_units(means) == 2


def _fast(codes, case, test_codes=None):
    test = case.test_codes if test_codes is None else test_codes
    return dci(codes, case.factors[:1000], test, case.test_factors, protocol="fast", seed=0)
