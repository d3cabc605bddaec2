import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.fusion import product_of_experts
from pipeline.models.views import draw_subset

priors = st.sampled_from(["none", "full", "all"])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(4)), priors)
def test_order_of_experts_does_not_matter(seed: int, order: list[int], prior_experts: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = 5 * torch.randn(2, 4, 3, 2, generator=generator)
    present = torch.rand(4, 3, generator=generator) < 0.6
    one = product_of_experts(mean, logvar, present, prior_experts)
    other = product_of_experts(mean[order], logvar[order], present[order], prior_experts)
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.logvar, other.logvar, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(allow_nan=True, allow_infinity=True, width=32), priors)
def test_absent_expert_changes_nothing(seed: int, filler: float, prior_experts: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, 3, 5, 2, generator=generator)
    present = torch.rand(3, 5, generator=generator) < 0.5
    clean = product_of_experts(mean, logvar, present, prior_experts)
    mean = torch.where(present[..., None], mean, filler).requires_grad_()
    logvar = torch.where(present[..., None], logvar, filler).requires_grad_()
    filled = product_of_experts(mean, logvar, present, prior_experts)
    assert torch.equal(clean.mean, filled.mean)
    assert torch.equal(clean.logvar, filled.logvar)
    (filled.mean.sum() + filled.logvar.sum()).backward()
    assert mean.grad is not None
    assert logvar.grad is not None
    assert not mean.grad[~present].any()
    assert not logvar.grad[~present].any()
    assert mean.grad.isfinite().all()
    assert logvar.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_a_drawn_subset_is_present_and_not_empty(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(4, 16, generator=generator) < 0.5
    subset = draw_subset(present, torch.rand(16, generator=generator))
    assert not (subset & ~present).any()
    assert torch.equal(subset.any(dim=0), present.any(dim=0))
