"""Linear networks under the losses in use have known optima."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.batch import PackedBatch
from pipeline.data.loader.arrays import Layout
from pipeline.data.loader.corrupt import CorruptionProcess
from pipeline.data.loader.dataset import packed_batch
from pipeline.objectives.likelihood import located_nll

SIDE = 4
SIZE = 3 * SIDE**2


def pictures(rows: int) -> Tensor:
    """Values around 0.5 whose 48 dimensions vary along 6, each less than the one before."""
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(SIZE, 6, generator=generator, dtype=torch.float64))
    scales = 0.4 * 0.8 ** torch.arange(6, dtype=torch.float64)
    return 0.5 + torch.randn(rows, 6, generator=generator, dtype=torch.float64) * scales @ directions.T


def minimise(parameters: list[Tensor], predict: Callable[[], Tensor], target: Tensor) -> None:
    """By the NLL of training, with a scale of 1."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=150, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    valid, scale = torch.ones(len(target), SIDE, SIDE, dtype=torch.bool), torch.ones((), dtype=torch.float64)

    def loss() -> Tensor:
        optimizer.zero_grad()
        images = (part.view(-1, 3, SIDE, SIDE) for part in (predict(), target))
        total = located_nll(*images, valid, scale, "gaussian").sum() / len(target)
        total.backward()
        return total

    optimizer.step(loss)


def test_a_linear_autoencoder_finds_the_subspace_of_the_principal_components() -> None:
    """Three latents of six directions: it spans the first three, and what is left is their eigenvalues.

    Source: Baldi & Hornik 1989, "Neural networks and principal component analysis".
    """
    data = pictures(200)
    data = data - data.mean(dim=0)
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = (
        (0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in ((SIZE, 3), (3, SIZE))
    )
    minimise([encoder, decoder], lambda: data @ encoder @ decoder, data)
    eigenvalues, vectors = torch.linalg.eigh(data.T @ data / len(data))
    principal = vectors[:, -3:]
    found, _ = torch.linalg.qr(decoder.detach().T)
    cosines = torch.linalg.svdvals(found.T @ principal)
    torch.testing.assert_close(cosines, torch.ones_like(cosines), atol=1e-5, rtol=0)
    left = (data - data @ encoder @ decoder).square().sum(dim=1).mean().item()
    assert left == pytest.approx(eigenvalues[:-3].sum().item(), rel=1e-5)


def corrupted(data: Tensor, sigma: float) -> PackedBatch:
    """The pictures in 8 bits, and what the loader would have encoders see of them."""
    layout = Layout(("rgb",), SIDE, corrupted=True)
    rows = len(data)
    arrays = layout.arrays(bytearray(layout.bytes_for(rows)), rows)
    stored = np.rint(255 * data.numpy()).clip(0, 255).astype(np.uint8)
    arrays.value["rgb"][:] = stored.reshape(rows, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    arrays.present["rgb"][:] = True
    CorruptionProcess(0, 0, gaussian=sigma).apply(arrays, np.zeros(rows, np.int64), np.arange(rows))
    return packed_batch(arrays, np.arange(rows), None)


def test_a_linear_denoiser_is_the_wiener_filter() -> None:
    """C (C + sigma^2)^-1 of what the loader corrupts, to the error of 6,000 samples.

    Source: Wiener 1949; the optimal linear estimate of a signal under additive white noise.
    """
    sigma = 0.08
    batch = corrupted(0.5 + 0.4 * (pictures(6000) - 0.5), sigma).unpack()  # far from black and white
    target, seen = (
        part.modalities["rgb"].value.flatten(1).double() - 0.5 for part in (batch, batch.inputs())
    )
    weight = torch.zeros(SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    minimise([weight], lambda: seen @ weight, target)
    covariance = target.T @ target / len(target)
    noise = sigma**2 * torch.eye(SIZE, dtype=torch.float64)
    wiener = torch.linalg.solve(covariance + noise, covariance)

    def risk(filtering: Tensor) -> float:
        """Expected squared error of a filter under the true noise."""
        distortion = filtering - torch.eye(SIZE, dtype=torch.float64)
        return float(torch.trace(distortion.T @ covariance @ distortion + filtering.T @ noise @ filtering))

    assert risk(weight.detach()) == pytest.approx(risk(wiener), rel=0.03)
    assert risk(torch.eye(SIZE, dtype=torch.float64)) > 5 * risk(wiener)
    assert (weight.detach() - wiener).norm() < 0.15 * wiener.norm()
