"""Scores of sets of scenes, against closed forms and planted copies, gaps and blur."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.metrics.fewshot import memorisation
from pipeline.metrics.generation import (
    copied_share,
    density_and_coverage,
    edge_energy,
    expected_coverage,
    frechet_distance,
    kernel_distance,
)


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(rows: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """A set whose mean and unbiased covariance are exactly these."""
    draw = normal(rows, len(mean), seed)
    centred = draw - draw.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(draw.T)), centred.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_the_frechet_distance_of_two_gaussians_has_a_closed_form() -> None:
    a, b = normal(4, 4, 0), normal(4, 4, 1)
    first, second = a @ a.T + torch.eye(4), b @ b.T + 0.5 * torch.eye(4)
    mean = normal(2, 4, 2)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).sqrt().sum()
    expected = (mean[0] - mean[1]).square().sum() + first.trace() + second.trace() - 2 * cross
    measured = frechet_distance(with_moments(40, mean[0], first, 3), with_moments(60, mean[1], second, 4))
    assert measured == pytest.approx(float(expected), rel=1e-9)


def test_the_frechet_distance_of_independent_features_is_a_sum_over_them() -> None:
    mean, spread = torch.tensor([1.0, -2.0]).double(), torch.tensor([3.0, 0.5]).double()
    first = with_moments(30, torch.zeros(2).double(), torch.eye(2).double(), 5)
    second = with_moments(30, mean, torch.diag(spread.square()), 6)
    expected = float((mean.square() + (spread - 1.0).square()).sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_rows_than_features() -> None:
    rows = normal(10, 64, 7)
    assert frechet_distance(rows, rows) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(rows, rows + 0.5) == pytest.approx(64 * 0.25, rel=1e-9)


def test_the_kernel_distance_of_one_feature_is_a_sum_of_moments() -> None:
    # (x y + 1)^3 = sum_j c_j x^j y^j with c = 1, 3, 3, 1, so the biased statistic compares moments
    x, y = normal(9, 1, 8), 1.0 + normal(7, 1, 9)
    biased = sum(c * float(x.pow(j).mean() - y.pow(j).mean()) ** 2 for j, c in enumerate((1, 3, 3, 1)))

    def excess(rows: Tensor) -> float:
        """How much the mean over all pairs, those of a row with itself among them, exceeds the other."""
        n, gram = len(rows), (rows @ rows.T + 1.0).pow(3)
        return float(gram.mean() - (gram.sum() - gram.trace()) / (n * (n - 1)))

    assert kernel_distance(x, y) == pytest.approx(biased - excess(x) - excess(y), rel=1e-9)


def test_the_kernel_distance_has_mean_zero_for_two_sets_of_one_distribution() -> None:
    values = torch.tensor([
        kernel_distance(normal(20, 3, 2 * seed), normal(20, 3, 2 * seed + 1)) for seed in range(400)
    ])
    assert abs(float(values.mean())) < 3.0 * float(values.std()) / 20.0
    assert float(values.min()) < 0.0
    assert kernel_distance(normal(200, 3, 0), 0.5 + normal(200, 3, 1)) > 3 * float(values.std())


def test_density_and_coverage_count_balls_around_real_scenes() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0]])  # radii to the nearest other: 1, 1, 2
    generated = torch.tensor([[0.5], [1.5], [9.0]])
    # 0.5 lies in the balls of 0 and 1, 1.5 in those of 1 and 3, 9 in none
    found = density_and_coverage(generated, real, k=1)
    assert (found.density, found.coverage) == (pytest.approx(4 / 3), 1.0)
    lonely = density_and_coverage(torch.tensor([[3.5]]), real, k=1)
    assert (lonely.density, lonely.coverage) == (1.0, pytest.approx(1 / 3))


def test_a_set_covers_itself_wholly() -> None:
    rows = normal(300, 6, 10)
    assert density_and_coverage(rows, rows).coverage == 1.0
    # k + 1 on average: every ball holds its centre and its k neighbours
    assert density_and_coverage(rows, rows, k=5).density == pytest.approx(6 / 5)


def test_two_sets_of_one_distribution_have_density_one_and_the_expected_coverage() -> None:
    found = density_and_coverage(normal(1500, 5, 11), normal(1500, 5, 12))
    assert found.density == pytest.approx(1.0, abs=0.06)
    assert expected_coverage(1500, 1500) == pytest.approx(1.0 - 0.5**5, abs=1e-3)
    assert found.coverage == pytest.approx(expected_coverage(1500, 1500), abs=0.015)


def test_a_dropped_mode_is_missing_from_coverage_and_a_narrow_mode_is_dense() -> None:
    centres = 40.0 * torch.eye(4).double()
    real = normal(800, 4, 13) + centres.repeat_interleave(200, dim=0)
    three = normal(800, 4, 14) + centres[torch.arange(800) % 3]
    found = density_and_coverage(three, real)
    assert found.coverage == pytest.approx(0.75, abs=0.03)
    narrow = density_and_coverage(centres[torch.arange(800) % 3] + 0.3 * normal(800, 4, 15), real)
    assert narrow.density > 1.3
    assert narrow.coverage < 0.5


def test_fresh_draws_are_not_copies_whatever_the_numbers_and_their_quality() -> None:
    training, unseen = normal(2000, 8, 16), normal(500, 8, 17)
    for generated in (normal(1000, 8, 18), 0.7 * normal(1000, 8, 19), 1.0 + normal(1000, 8, 20)):
        assert copied_share(generated, training, unseen) == pytest.approx(0.5, abs=0.12)


def test_copies_are_found_in_proportion() -> None:
    training, unseen = normal(2000, 8, 21), normal(500, 8, 22)
    copies = training[:1000] + 1e-6 * normal(1000, 8, 23)
    assert copied_share(copies, training, unseen) == 1.0
    half = torch.cat([copies[:500], normal(500, 8, 24)])
    assert copied_share(half, training, unseen) == pytest.approx(0.75, abs=0.1)


def test_with_as_many_unseen_as_training_scenes_it_is_the_few_shot_share() -> None:
    training, unseen, made = normal(50, 3, 25), normal(50, 3, 26), normal(200, 3, 27)
    expected = memorisation(made.numpy(), training.numpy(), unseen.numpy()).share
    assert copied_share(made, training, unseen) == pytest.approx(expected)


def test_a_tie_is_no_evidence_of_copying() -> None:
    rows = normal(30, 3, 28)
    assert copied_share(rows, rows, rows) == 0.5


def test_the_energy_of_a_wave_follows_from_its_frequency() -> None:
    # The gradient of cos(w x) is -sin(w) sin(w x) by Sobel; over whole waves its mean square is sin^2(w) / 2
    waves, side = 6, 48
    frequency = 2 * math.pi * waves / side
    row = torch.cos(frequency * torch.arange(side + 2, dtype=torch.float64))
    image = row.expand(1, 3, side + 2, side + 2)
    expected = 0.5 * math.sin(frequency) ** 2
    assert edge_energy(image)[0].item() == pytest.approx(expected, rel=1e-9)
    assert edge_energy(image.transpose(2, 3))[0].item() == pytest.approx(expected, rel=1e-9)


def test_energy_falls_with_blur_and_ignores_brightness_and_a_grid_of_single_pixels() -> None:
    image = (
        (normal(2, 3 * 8 * 8, 29) > 0)
        .double()
        .view(2, 3, 8, 8)
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    )
    energies = [float(edge_energy(image).mean())]
    for _ in range(3):
        image = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(image, (1,) * 4, "replicate"), 3, 1)
        energies.append(float(edge_energy(image).mean()))
    assert energies == sorted(energies, reverse=True)
    assert energies[3] < 0.5 * energies[0]
    torch.testing.assert_close(edge_energy(image + 0.25), edge_energy(image))
    grid = torch.tensor([1.0, -1.0]).double().repeat(16)
    checked = image + 0.1 * grid * grid[:, None]
    torch.testing.assert_close(edge_energy(checked), edge_energy(image))


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance])
def test_one_scene_is_no_set(score: object) -> None:
    with pytest.raises(ValueError, match="need at least 2 scenes, not 1 and 5"):
        score(normal(1, 3, 0), normal(5, 3, 1))  # type: ignore[operator]


def test_too_few_real_scenes_have_no_neighbourhoods() -> None:
    with pytest.raises(ValueError, match="needs more than 5 real scenes, not 5"):
        density_and_coverage(normal(9, 3, 0), normal(5, 3, 1))
