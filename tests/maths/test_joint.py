"""A joint encoder: what it pools, and that it sees nothing else."""

import math

import pytest
import torch

from pipeline.models.joint import JointEncoder


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_joint_encoder_sees_nothing_of_what_is_absent(pool: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        joint = JointEncoder(3, 8, pool)
    feature = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    present = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()
    results = []
    for filler in (0.0, 9.0, math.nan, math.inf):
        filled = torch.where(present[..., None], feature, filler).requires_grad_()
        result = joint(filled, present)
        inputs, *weights = torch.autograd.grad(result.square().sum(), [filled, *joint.parameters()])
        assert not inputs[~present].any()
        assert inputs[present].abs().sum(dim=1).min() > 0
        results.append((result, inputs, *weights))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for row in range(5):
        alone = joint(feature[:, [row]], present[:, [row]])
        torch.testing.assert_close(alone, results[0][0][[row]], rtol=1e-5, atol=1e-6)


def test_a_joint_encoder_adds_what_it_makes_of_the_average_and_of_what_was_seen() -> None:
    """Weights that can be followed by hand: silu of each number of the average, the first one plus
    10 and 20 for the modalities seen."""
    joint = JointEncoder(2, 2, "mean").double()
    first, _, second = joint.mix
    with torch.no_grad():
        for layer in (first, second):
            layer.bias.zero_()
            layer.weight.copy_(torch.eye(*layer.weight.shape))
        first.weight[0, 2:] = torch.tensor([10.0, 20.0])
    feature = torch.tensor([[[1.0, 2.0]] * 3, [[5.0, -4.0]] * 3], dtype=torch.float64)
    present = torch.tensor([[True, True, False], [True, False, False]])

    def silu(value: float) -> float:
        return value / (1.0 + math.exp(-value))

    expected = [
        [3.0 + silu(3.0 + 30.0), -1.0 + silu(-1.0)],
        [1.0 + silu(1.0 + 10.0), 2.0 + silu(2.0)],
        [0.0, 0.0],
    ]
    torch.testing.assert_close(joint(feature, present), torch.tensor(expected, dtype=torch.float64))


def test_attention_pools_by_a_softmax_over_what_is_present() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        joint = JointEncoder(2, 8, "attention").double()
    feature = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    present = torch.tensor([[True, True, False], [True, False, True]])
    assert joint.score is not None
    pooled = joint._pool(torch.where(present[..., None], feature, 0.0), present)
    torch.testing.assert_close(pooled[1], feature[0, 1])
    torch.testing.assert_close(pooled[2], feature[1, 2])
    weight = joint.score(feature[:, 0]).softmax(dim=0).repeat_interleave(2, dim=1)
    torch.testing.assert_close(pooled[0], (weight * feature[:, 0]).sum(dim=0))
