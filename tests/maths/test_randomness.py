import pytest
import torch
from scipy.stats import kstest

from pipeline.training.randomness import GOLDEN_GAMMA, _mix, _mix_tensor, _signed, normal, uniform

ROWS = torch.arange(2000)


def test_the_tensor_hash_is_splitmix64() -> None:
    # First outputs of the reference implementation for seed 1234567 (prng.di.unimi.it/splitmix64.c).
    state, expected = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(state + GOLDEN_GAMMA * (index + 1)) % 2**64 for index in range(3)]
    assert [_mix(value) for value in states] == expected
    hashed = _mix_tensor(torch.tensor([_signed(value) for value in states]))
    assert hashed.tolist() == [_signed(value) for value in expected]


def test_uniform_and_normal_have_their_distributions() -> None:
    for step in (0, 1, 781):
        assert kstest(uniform(0, step, ROWS, "shared", 16).flatten(), "uniform").pvalue > 1e-3
        assert kstest(normal(0, step, ROWS, "shared", 16).flatten(), "norm").pvalue > 1e-3
    draws = uniform(0, 0, ROWS, "shared", 16)
    assert ((draws > 0) & (draws < 1)).all()


@pytest.mark.parametrize(
    "other",
    [
        normal(0, 0, ROWS, "private/rgb", 8),
        normal(0, 1, ROWS, "shared", 8),
        normal(1, 0, ROWS, "shared", 8),
        normal(0, 0, ROWS + 1, "shared", 8),
        normal(0, 0, ROWS, "shared", 9)[:, 1:],
    ],
    ids=["stream", "step", "seed", "row", "column"],
)
def test_whatever_the_noise_is_for_makes_it_independent(other: torch.Tensor) -> None:
    one = normal(0, 0, ROWS, "shared", 8)
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert abs(correlation) < 4 / one.numel() ** 0.5


@pytest.mark.parametrize("world_size", [2, 4])
def test_noise_does_not_depend_on_the_number_of_processes(world_size: int) -> None:
    whole = normal(3, 7, torch.arange(64), "shared", 5)
    local = 64 // world_size
    parts = [
        normal(3, 7, torch.arange(rank * local, (rank + 1) * local), "shared", 5)
        for rank in range(world_size)
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_a_wider_draw_begins_with_the_narrower_one() -> None:
    assert torch.equal(uniform(0, 0, ROWS, "subset", 1), uniform(0, 0, ROWS, "subset", 4)[:, :1])
