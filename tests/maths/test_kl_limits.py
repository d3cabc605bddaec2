import pytest
import torch

from pipeline.objectives.divergence import capacity, free_bits


def kl_and_leaf(rows: int = 6, latents: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([0.05, 0.4, 1.0, 3.0], dtype=torch.float64)
    return (scale * torch.rand(rows, latents, generator=generator, dtype=torch.float64)).requires_grad_()


def test_free_bits_averages_to_the_maximum_over_latents_in_value_and_gradient() -> None:
    kl, nats = kl_and_leaf(), 0.3
    limited = free_bits(kl, nats).mean()
    expected = kl.mean(dim=0).clamp(min=nats).sum()
    torch.testing.assert_close(limited, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, kl)[0] for value in (limited, expected)))
    assert 0 < (kl.mean(dim=0) < nats).sum() < 4


def test_no_free_bits_leave_the_kl_as_it_is() -> None:
    kl = kl_and_leaf()
    torch.testing.assert_close(free_bits(kl, 0.0), kl.sum(dim=1))


def test_under_many_free_bits_nothing_is_pressed_and_every_row_counts_them() -> None:
    kl = kl_and_leaf()
    limited = free_bits(kl, 10.0)
    torch.testing.assert_close(limited, torch.full((6,), 40.0, dtype=torch.float64))
    assert torch.autograd.grad(limited.sum(), kl)[0].abs().max() == 0.0


def test_free_bits_of_two_halves_with_the_mean_of_all_are_those_of_the_whole() -> None:
    kl = kl_and_leaf()
    nats = kl[:, 2].mean().item() - 0.01
    halves = [free_bits(half, nats, kl.mean(dim=0)) for half in kl.chunk(2)]
    assert torch.equal(torch.cat(halves), free_bits(kl, nats))
    alone = [free_bits(half, nats) for half in kl.chunk(2)]
    assert not torch.equal(torch.cat(alone), free_bits(kl, nats))


@pytest.mark.parametrize("target", [0.5, 2.0, 4.0])
def test_capacity_averages_to_the_distance_in_value_and_gradient(target: float) -> None:
    leaf = kl_and_leaf()
    kl = leaf.sum(dim=1)
    held, expected = capacity(kl, target).mean(), (kl.mean() - target).abs()
    torch.testing.assert_close(held, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (held, expected))
    )


def test_capacity_zero_is_the_kl_and_at_the_target_nothing_is_pressed() -> None:
    kl = kl_and_leaf().sum(dim=1)
    torch.testing.assert_close(capacity(kl, 0.0), kl)
    assert capacity(kl, kl.mean().item()).abs().max() == 0.0


def test_capacity_of_two_halves_with_the_mean_of_all_is_that_of_the_whole() -> None:
    kl = kl_and_leaf().sum(dim=1)
    halves = [capacity(half, 2.0, kl.mean()) for half in kl.chunk(2)]
    assert torch.equal(torch.cat(halves), capacity(kl, 2.0))
