"""What rows are encoded from in training."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.config.model import Model
from pipeline.models.views import Views, choose_one_view, choose_views, draw_one, subset_masks
from pipeline.training.randomness import uniform

EVERY_CASE = torch.tensor(list(product((False, True), repeat=3))).T
"""Three modalities in all eight ways to be there; the first row has nothing."""


def blocks(views: Views) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Given and targets as (view, modality, row), weights as (view, row)."""
    given, targets = (
        mask.unflatten(1, (views.count, -1)).permute(1, 0, 2) for mask in (views.given, views.targets)
    )
    return given, targets, views.weight.unflatten(0, (views.count, -1))


def seen_by(views: Views, row: int) -> list[tuple[tuple[bool, ...], float]]:
    """Each view of a row that weighs something: what it sees, and its weight."""
    given, _, weight = blocks(views)
    return [
        (tuple(given[view, :, row].tolist()), weight[view, row].item())
        for view in range(views.count)
        if weight[view, row] > 0
    ]


def possible(row: int, *, alone: bool) -> set[tuple[bool, ...]]:
    """By hand: the non-empty subsets of what a row has, or those of a single modality."""
    present = EVERY_CASE[:, row].tolist()
    subsets = [s for s in product((False, True), repeat=3) if any(s)]
    subsets = [s for s in subsets if all(p or not seen for p, seen in zip(present, s, strict=True))]
    return {s for s in subsets if sum(s) == 1 or not alone}


@pytest.mark.parametrize(
    ("fusion", "subsets", "alone"), [("moe", "each", True), ("mopoe", "enumerated", False)]
)
def test_every_possible_view_of_a_row_weighs_the_same_and_others_nothing(
    fusion: str, subsets: str, alone: bool
) -> None:
    views = choose_views(fusion, subsets, EVERY_CASE, torch.zeros(8, 1))
    assert views.count == (3 if alone else 7)
    for row in range(1, 8):
        seen = seen_by(views, row)
        assert {subset for subset, _ in seen} == possible(row, alone=alone)
        assert len(seen) == len(possible(row, alone=alone))
        for _, weight in seen:
            assert weight == pytest.approx(1 / len(seen))
    assert seen_by(views, 0) == []
    assert not views.given[:, views.weight == 0].any()
    assert torch.equal(blocks(views)[1], EVERY_CASE.expand(views.count, 3, 8))


@pytest.mark.parametrize("terms", [0, 1, 4])
def test_mvae_adds_up_the_whole_the_single_modalities_and_random_subsets(terms: int) -> None:
    views = choose_views("poe", "subsampled", EVERY_CASE, uniform(0, 0, torch.arange(8), "subset", terms))
    given, targets, weight = blocks(views)
    assert views.count == 1 + 3 + terms
    assert torch.equal(given, targets)
    assert torch.equal(given[0], EVERY_CASE)
    for modality in range(3):
        alone = torch.zeros(3, 8, dtype=torch.bool)
        alone[modality] = EVERY_CASE[modality]
        assert torch.equal(given[1 + modality], alone)
    assert not (given & ~EVERY_CASE).any()
    assert torch.equal(weight, given.any(dim=1).float())
    assert given[4:, :, 1:].any(dim=1).all()


def test_random_terms_of_a_row_are_drawn_apart() -> None:
    present = torch.ones(3, 1, dtype=torch.bool)
    drawn = choose_views("poe", "subsampled", present, torch.tensor([[0.0, 0.999]])).given[:, 4:]
    assert drawn.T.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("missing", [(), (1,), (0, 2)])
def test_moe_draws_are_uniform_over_what_is_present_and_independent_of_the_row(
    missing: tuple[int, ...],
) -> None:
    present = torch.ones(3, 13, dtype=torch.bool)
    present[list(missing)] = False
    rows, steps = torch.arange(13), 300
    drawn = torch.stack([draw_one(present, uniform(0, t, rows, "subset", 1)[:, 0]) for t in range(steps)])
    assert (drawn.sum(dim=1) == 1).all()
    kept = [modality for modality in range(3) if modality not in missing]
    counts = drawn.sum(dim=0)[kept]
    assert counts.sum() == 13 * steps
    if len(kept) > 1:
        assert chisquare(counts.sum(dim=1).tolist()).pvalue > 1e-3
        assert min(chisquare(counts[:, row].tolist()).pvalue for row in range(13)) > 1e-3 / 13
        first = drawn.float().argmax(dim=1)
        same = (first[:, 0] == first[:, 1]).double().mean().item()
        assert same == pytest.approx(1 / len(kept), abs=0.1)


def test_each_rank_of_uniform_numbers_draws_its_modality() -> None:
    present = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    drawn = draw_one(present, torch.tensor([0.0, 0.499, 0.5, 1.0 - 2**-24]))
    assert drawn.tolist() == [[True, True, False, False], [False] * 4, [False, False, True, True]]


SYSTEMS = [
    ("poe", "whole"),
    ("poe", "subsampled"),
    ("mopoe", "drawn"),
    ("mopoe", "enumerated"),
    ("moe", "drawn"),
    ("moe", "each"),
    ("mmvaeplus", "each"),
    ("barycentre", "enumerated"),
]


@pytest.mark.parametrize(("fusion", "subsets"), SYSTEMS)
def test_a_row_knows_nothing_of_its_neighbours(fusion: str, subsets: str) -> None:
    numbers = uniform(1, 2, torch.arange(8), "subset", 2)
    together = blocks(choose_views(fusion, subsets, EVERY_CASE, numbers))
    for row in range(8):
        alone = blocks(choose_views(fusion, subsets, EVERY_CASE[:, [row]], numbers[[row]]))
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[..., [row]], other)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SYSTEMS), st.integers(1, 4))
def test_weights_add_up_and_nothing_absent_is_seen(seed: int, system: tuple[str, str], draws: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(3, 6, generator=generator) < 0.5
    views = choose_views(*system, present, torch.rand(6, 2, generator=generator)).repeated(draws)
    given, targets, weight = blocks(views)
    assert not (given & ~present).any()
    assert not (targets & ~present).any()
    some = present.any(dim=0)
    total = weight.sum(dim=0)[some]
    if system[1] == "subsampled":
        expected = blocks(views)[0].any(dim=1).float().sum(dim=0)[some] / draws
    else:
        expected = torch.ones_like(total)
    torch.testing.assert_close(total, expected)


def test_what_is_hidden_from_encoders_is_still_to_be_predicted() -> None:
    seen, whole = EVERY_CASE, torch.ones(3, 8, dtype=torch.bool)
    for fusion, subsets in SYSTEMS:
        views = choose_views(fusion, subsets, seen, torch.zeros(8, 1), whole)
        given, targets, _ = blocks(views)
        assert not (given & ~seen).any()
        assert torch.equal(targets, given if subsets == "subsampled" else whole.expand_as(targets))


@pytest.mark.parametrize(
    ("fusion", "subsets", "whole"),
    [("poe", "whole", True), ("poe", "subsampled", True), ("mopoe", "drawn", False), ("moe", "each", False)],
)
def test_a_model_that_is_trained_further_sees_one_view_like_those_it_knows(
    fusion: str, subsets: str, whole: bool
) -> None:
    numbers = torch.zeros(8)  # draw the first modality there is
    first = EVERY_CASE & (EVERY_CASE.long().cumsum(dim=0) == 1)
    one = choose_one_view(Model(fusion=fusion, subsets=subsets), EVERY_CASE, numbers)
    assert torch.equal(one, EVERY_CASE if whole else first)


def test_repeated_views_share_out_their_weight() -> None:
    views = choose_views("moe", "each", EVERY_CASE, torch.zeros(8, 1))
    thrice = views.repeated(3)
    assert thrice.count == 9
    assert torch.equal(thrice.given, torch.cat([views.given] * 3, dim=1))
    torch.testing.assert_close(thrice.weight.unflatten(0, (3, -1)).sum(dim=0), views.weight)


def test_subset_masks_name_each_subset_once() -> None:
    for count in (1, 2, 3, 4):
        masks = subset_masks(count)
        assert len(masks) == len(set(map(tuple, masks.tolist()))) == 2**count - 1
        assert masks.any(dim=1).all()
