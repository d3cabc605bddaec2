"""Bounds of mixtures, on a linear-Gaussian model whose evidence and posterior are known."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pipeline.config.objective import KlRegulariser, Objective
from pipeline.models.fusion import mixture_of_experts
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Experts, Output, Posterior
from pipeline.models.views import Views, choose_views
from pipeline.objectives.bounds import importance_weighted, log_mixture, mixture_bound

MODALITIES = ("rgb", "depth", "seg")
LATENT, PRIVATE, WIDTH, NOISE = 2, 2, 3, 0.6


@dataclass
class Linear:
    """x_m = W_m z + V_m w_m + noise, and what encoders might say of some rows of it."""

    shared: Tensor  # modality width latent
    own: Tensor  # width private: V of rgb
    x: Tensor  # modality row width
    present: Tensor
    feature: Tensor  # modality row 2 * latent
    private: Tensor  # row 2 * private: mean and log-variance of w
    log_auxiliary: Tensor

    def trained(self) -> list[Tensor]:
        return [self.feature, self.private, self.log_auxiliary]


def linear(rows: int, present: list[bool], *, seed: int = 0, same: bool = False) -> Linear:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = 1 if same else rows
    x, feature, private = normal(3, count, WIDTH), normal(3, count, 2 * LATENT), normal(count, 2 * PRIVATE)
    feature[..., LATENT:] = 0.4 * feature[..., LATENT:] - 0.5
    private[:, PRIVATE:] = 0.4 * private[:, PRIVATE:] - 0.5
    return Linear(
        normal(3, WIDTH, LATENT),
        normal(WIDTH, PRIVATE),
        x.expand(3, rows, WIDTH),
        torch.tensor(present)[:, None].expand(3, rows).clone(),
        feature,
        private,
        0.3 * normal(PRIVATE),
    )


def forward(
    model: Linear, draws: int, seed: int = 1, with_private: bool = True
) -> tuple[Output, Views, Tensor]:
    """What the autoencoder would do: one block of rows per draw and view."""
    rows = model.present.shape[1]
    generator = torch.Generator().manual_seed(seed)
    views = choose_views("moe", "each", model.present, torch.zeros(rows, 1)).repeated(draws)
    blocks = views.count
    private = {}
    if with_private:
        mean, logvar = model.private.expand(rows, -1).chunk(2, dim=1)
        private = {"rgb": Gaussian(mean, logvar)}
    experts = Experts(model.feature.expand(3, rows, -1) + 0.0, model.present, private)
    everyone = experts.repeated(blocks)
    shared = mixture_of_experts(everyone.mean, everyone.logvar, views.given & everyone.present)
    z = shared.sample(torch.randn(rows * blocks, LATENT, generator=generator, dtype=torch.float64))
    owns, w = {}, {}
    if with_private:
        seen = (views.given & everyone.present)[0][:, None]
        q = everyone.private["rgb"]
        owns["rgb"] = Gaussian(
            torch.where(seen, q.mean, 0.0), torch.where(seen, q.logvar, 2.0 * model.log_auxiliary)
        )
        w["rgb"] = owns["rgb"].sample(
            torch.randn(rows * blocks, PRIVATE, generator=generator, dtype=torch.float64)
        )
    output = Output(None, Posterior(shared, owns), experts, views.given, z, w)
    reconstruction = torch.zeros(rows * blocks, dtype=torch.float64)
    for m in range(3):
        location = z @ model.shared[m].T
        if m == 0 and with_private:
            location = location + w["rgb"] @ model.own.T
        x = torch.where(model.present[m][:, None], model.x[m], 0.0).repeat(blocks, 1)
        row = -Normal(location, NOISE).log_prob(x).sum(dim=1)
        reconstruction = reconstruction + torch.where(views.targets[m], row, 0.0)
    return output, views, reconstruction


def bound(
    model: Linear,
    draws: int,
    *,
    estimator: str = "iwae",
    beta: float = 1.0,
    seed: int = 1,
    with_private: bool = True,
) -> Tensor:
    """The bound itself, averaged over rows."""
    output, views, reconstruction = forward(model, draws, seed, with_private)
    objective = Objective(regulariser=KlRegulariser(importance_samples=draws, estimator=estimator))
    total = mixture_bound(MODALITIES, output, reconstruction, views, objective, beta=beta)
    return -total / model.present.shape[1]


def by_hand(model: Linear, draws: int, beta: float) -> float:
    """Row by row, expert by expert, draw by draw, as in the papers."""
    output, _, _ = forward(model, draws)
    rows, total = model.present.shape[1], 0.0
    z, w = output.shared.view(draws, 3, rows, LATENT), output.private["rgb"].view(draws, 3, rows, PRIVATE)
    for row in range(rows):
        there = [m for m in range(3) if model.present[m, row]]
        for m in there:
            weights = []
            for k in range(draws):
                code, own = z[k, m, row], w[k, m, row]
                log_p = Normal(0.0, 1.0).log_prob(code).sum().item()
                densities = []
                for n in there:
                    mean, logvar = model.feature[n, row].chunk(2)
                    densities.append(Normal(mean, (0.5 * logvar).exp()).log_prob(code).sum().exp().item())
                ratio = log_p - math.log(sum(densities) / len(there))
                if m == 0:
                    mean, logvar = model.private[row].chunk(2)
                    ratio += (
                        (Normal(0.0, 1.0).log_prob(own) - Normal(mean, (0.5 * logvar).exp()).log_prob(own))
                        .sum()
                        .item()
                    )
                likelihood = 0.0
                for n in there:
                    location = model.shared[n] @ code + (model.own @ own if n == 0 else 0.0)
                    likelihood += Normal(location, NOISE).log_prob(model.x[n, row]).sum().item()
                weights.append(math.exp(likelihood + beta * ratio))
            total += math.log(sum(weights) / draws) / len(there)
    return total / rows


@pytest.mark.parametrize(
    "present", [[True, True, True], [True, False, True], [False, True, True], [True, False, False]]
)
@pytest.mark.parametrize(("draws", "beta"), [(1, 1.0), (3, 1.0), (3, 0.3)])
def test_the_bound_of_a_mixture_is_what_the_papers_write(
    present: list[bool], draws: int, beta: float
) -> None:
    model = linear(4, present)
    assert bound(model, draws, beta=beta).item() == pytest.approx(by_hand(model, draws, beta), rel=1e-6)


def test_rows_that_have_different_modalities_are_weighed_each_by_its_own() -> None:
    model = linear(4, [True, True, True])
    model.present[:, 1] = torch.tensor([False, True, True])
    model.present[:, 2] = torch.tensor([True, False, False])
    assert bound(model, 2).item() == pytest.approx(by_hand(model, 2, 1.0), rel=1e-6)
    model.present[:, 3] = False
    rest = linear(4, [True, True, True])
    rest.present = model.present[:, :3]
    rest.x, rest.feature, rest.private = model.x[:, :3], model.feature[:, :3], model.private[:3]
    assert 4 * bound(model, 1).item() == pytest.approx(4 * by_hand(model, 1, 1.0), rel=1e-6)


def test_the_mixture_of_one_expert_is_its_density() -> None:
    model = linear(5, [False, True, False])
    experts = Experts(model.feature, model.present, {})
    value = torch.randn(5, LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mean, logvar = model.feature[1].chunk(2, dim=1)
    expected = Normal(mean, (0.5 * logvar).exp()).log_prob(value).sum(dim=1)
    torch.testing.assert_close(log_mixture(value, experts), expected)


def evidence(model: Linear) -> Tensor:
    """log p of the present parts of the first row, without private latents."""
    there = model.present[:, 0]
    loading = model.shared[there].flatten(0, 1)
    covariance = loading @ loading.T + NOISE**2 * torch.eye(len(loading), dtype=torch.float64)
    zero = torch.zeros(len(loading), dtype=torch.float64)
    return MultivariateNormal(zero, covariance).log_prob(model.x[there, 0].flatten())


def at_exact_posterior(model: Linear) -> Linear:
    """Every expert is p(z | x), which is diagonal because the loadings' columns are made orthogonal."""
    there = model.present[:, 0]
    loading = torch.linalg.qr(model.shared[there].flatten(0, 1))[0]
    model.shared[there] = (loading * torch.tensor([1.3, 0.7], dtype=torch.float64)).unflatten(0, (-1, WIDTH))
    loading = model.shared[there].flatten(0, 1)
    precision = 1.0 + loading.square().sum(dim=0) / NOISE**2
    flat = model.x[there].permute(1, 0, 2).flatten(1)
    mean = (flat @ loading) / NOISE**2 / precision
    model.feature = torch.cat([mean, -precision.log().expand_as(mean)], dim=1).expand(3, -1, -1).clone()
    return model


@pytest.mark.parametrize("estimator", ["iwae", "dreg"])
@pytest.mark.parametrize("draws", [1, 7])
def test_the_bound_is_the_evidence_at_the_exact_posterior(estimator: str, draws: int) -> None:
    model = at_exact_posterior(linear(6, [True, True, False], same=True))
    value = bound(model, draws, estimator=estimator, with_private=False)
    assert value.item() == pytest.approx(evidence(model).item(), rel=1e-6)


def test_the_bound_grows_with_draws_towards_the_evidence() -> None:
    model = linear(800, [True, False, True], same=True, seed=3)
    log_p = evidence(model).item()
    values = [bound(model, draws, with_private=False).item() for draws in (1, 4, 16, 64, 256)]
    assert values == sorted(values)
    assert values[0] < log_p - 0.5
    assert values[-1] == pytest.approx(log_p, abs=0.1)
    assert max(values) < log_p + 0.02


def test_importance_weights_are_averaged_before_the_logarithm() -> None:
    weights = torch.tensor([[1.0, 4.0], [3.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(importance_weighted(weights.log()), torch.tensor([2.0, 3.0]).double().log())


def gradients(model: Linear, draws: int, estimator: str, beta: float, seed: int, decoder: bool) -> Tensor:
    trained = [model.shared, model.own] if decoder else model.trained()
    for tensor in trained:
        tensor.requires_grad_()
    value = bound(model, draws, estimator=estimator, beta=beta, seed=seed)
    found = torch.autograd.grad(value, trained)
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_dreg_has_the_value_and_the_decoder_gradient_of_iwae(beta: float) -> None:
    model = linear(5, [True, True, False])
    values = [bound(model, 4, estimator=kind, beta=beta) for kind in ("iwae", "dreg")]
    torch.testing.assert_close(values[0], values[1])
    found = [gradients(model, 4, kind, beta, 1, decoder=True) for kind in ("iwae", "dreg")]
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("draws", "beta"), [(5, 1.0), (5, 0.4), (1, 0.7)])
@pytest.mark.parametrize("present", [[True, True, True], [True, False, False]])
def test_dreg_has_the_expected_gradient_of_iwae(present: list[bool], draws: int, beta: float) -> None:
    model = linear(400, present, same=True)
    differences, iwae = [], []
    for seed in range(12):
        one, other = (gradients(model, draws, kind, beta, seed, decoder=False) for kind in ("iwae", "dreg"))
        differences.append(other - one)
        iwae.append(one)
    difference = torch.stack(differences)
    error = difference.std(dim=0) / len(difference) ** 0.5
    size = torch.stack(iwae).mean(dim=0).abs().max().item()
    assert error.max().item() < 0.03 * size
    assert (difference.mean(dim=0).abs() < 6 * error + 1e-9).all()


def test_dreg_gradient_vanishes_at_the_exact_posterior() -> None:
    model = at_exact_posterior(linear(6, [True, True, False]))
    sizes = {}
    for kind in ("iwae", "dreg"):
        model.feature = model.feature.detach().requires_grad_()
        value = bound(model, 5, estimator=kind, with_private=False)
        (gradient,) = torch.autograd.grad(value, model.feature)
        sizes[kind] = gradient.abs().max().item()
    assert sizes["iwae"] > 1e-2
    assert sizes["dreg"] < 1e-9


@pytest.mark.parametrize("estimator", ["iwae", "dreg"])
def test_what_stands_in_an_absent_modality_changes_nothing(estimator: str) -> None:
    found = []
    for filler in (0.0, 7.0, math.nan, math.inf):
        model = linear(3, [True, False, True])
        model.feature[1] = filler
        model.x = model.x.clone()
        model.x[1] = filler
        value = bound(model, 3, estimator=estimator)
        encoder = gradients(model, 3, estimator, 1.0, 1, decoder=False)
        found.append((value, encoder, gradients(model, 3, estimator, 1.0, 1, decoder=True)))
        assert not encoder[: model.feature.numel()].view_as(model.feature)[1].any()
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_auxiliary_draws_weigh_nothing() -> None:
    model = linear(4, [True, True, False])
    output, views, _ = forward(model, 2)
    flat = torch.zeros(len(views.weight), dtype=torch.float64)
    objective = Objective(regulariser=KlRegulariser(importance_samples=2))
    model.log_auxiliary.requires_grad_()
    output, views, _ = forward(model, 2)
    total = mixture_bound(MODALITIES, output, flat, views, objective, beta=1.0)
    (gradient,) = torch.autograd.grad(total, model.log_auxiliary, allow_unused=True)
    assert gradient is None or not gradient.any()
