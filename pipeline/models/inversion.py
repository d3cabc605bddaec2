"""Codes of real scenes where there is no encoder: the latents whose decoded scene is most like them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.modality import IGNORE_INDEX
from pipeline.models.gaussian import Gaussian
from pipeline.models.posterior import POINT_LOGVAR
from pipeline.models.units import Units
from pipeline.models.variables import Decoded, Experts, Posterior

STARTS = 16
"""Latents that every row starts from the best of."""

STEPS = 60
"""Of Adam."""

SCALE = 0.1
"""Standard deviation within which RGB and standardised depth are to be met."""

LEARNING_RATE = 0.1
"""At the first step; it falls to 0 along a cosine."""

Decode = Callable[[Tensor], Decoded]
"""Codes (rows code), the shared latent and then every private one, to scenes."""


def inverted_posterior(
    decode: Callable[[Tensor, dict[str, Tensor]], Decoded],
    units: Units,
    experts: Experts,
    seen: Mapping[str, Bool[Tensor, " rows"]],
    latent: int,
    private: Mapping[str, int],
) -> Posterior:
    """Points whose decoded scenes are most like what is seen; N(0, I) where nothing is.

    Args:
        decode: The shared latent and the private ones to scenes.
        units: Of what is decoded.
        experts: With the sample that they are of.
        seen: Which rows may be looked at, per modality.
        latent: Dimensions of the shared latent.
        private: Dimensions of each private latent.
    """
    assert experts.sample is not None
    sizes = [latent, *private.values()]

    def decode_code(code: Float[Tensor, "rows code"]) -> Decoded:
        shared, *own = code.split(sizes, dim=1)  # type: ignore[no-untyped-call]
        return decode(shared, dict(zip(private, own, strict=True)))

    code = invert(decode_code, units, experts.sample, seen, sum(sizes))
    known = torch.stack(list(seen.values())).any(dim=0)[:, None]
    logvar = torch.where(known, POINT_LOGVAR, 0.0)
    parts = code.split(sizes, dim=1)  # type: ignore[no-untyped-call]
    shared, *own = [Gaussian(part, logvar.expand_as(part)) for part in parts]
    return Posterior(shared, dict(zip(private, own, strict=True)))


def invert(
    decode: Decode,
    units: Units,
    sample: Batch,
    seen: Mapping[str, Bool[Tensor, " rows"]],
    size: int,
) -> Float[Tensor, "rows code"]:
    """Minimise mismatch + |z|^2 / 2 over each row's code: the most probable one under N(0, I).

    The best of a few fixed draws is where Adam starts. Rows do not depend on each other, nor on
    anything random.

    Args:
        decode: With weights that need no gradient.
        units: Of what is decoded.
        sample: The scenes.
        seen: Which rows may be looked at, per modality.
        size: Dimensions of a code.

    Source: Creswell & Bharath 2018 (arXiv:1611.05644), inverting the generator with the latent's prior
        as a regulariser.
    """
    with torch.inference_mode(False), torch.enable_grad():
        batch = sample.copied()
        masks = {n: part.valid & seen[n].clone()[:, None, None] for n, part in batch.modalities.items()}
        images = {
            name: units.standardise(part.value, part.valid) if name == "depth" else part.value
            for name, part in batch.modalities.items()
        }
        return _descend(
            lambda code: mismatch(decode(code), images, masks), len(batch), size, batch.index.device
        )


def _descend(
    unlike: Callable[[Tensor], Tensor], rows: int, latent: int, device: torch.device
) -> Float[Tensor, "rows latent"]:
    generator = torch.Generator().manual_seed(0)
    starts = torch.randn(STARTS, latent, generator=generator, dtype=torch.float64).to(device).float()
    with torch.no_grad():
        cost = torch.stack([unlike(start.expand(rows, -1)) for start in starts])
    code = starts[cost.argmin(dim=0)].clone().requires_grad_()
    first, second = torch.zeros_like(code), torch.zeros_like(code)
    for step in range(1, STEPS + 1):
        loss = unlike(code) + 0.5 * code.square().sum(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), code)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient.square()
        rate = LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / STEPS))
        direction = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
        code = (code - rate * direction).detach().requires_grad_()
    return code.detach()


def mismatch(
    decoded: Decoded, images: Mapping[str, Tensor], seen: Mapping[str, Bool[Tensor, "batch height width"]]
) -> Float[Tensor, " batch"]:
    """How unlike scenes are what was decoded: nats per row over the pixels that are seen.

    RGB and standardised depth: squared error over twice the square of `SCALE`; labels: cross-entropy.

    Args:
        decoded: As the model gives it.
        images: RGB in 0..1, standardised depth, labels.
        seen: Pixels to explain.
    """
    total = torch.zeros(len(next(iter(seen.values()))), device=next(iter(seen.values())).device)
    for name, mask in seen.items():
        location = getattr(decoded, name)
        if name == "seg":
            labels = torch.where(mask, images[name], IGNORE_INDEX)
            cost = F.cross_entropy(location, labels, ignore_index=IGNORE_INDEX, reduction="none")
            total = total + cost.flatten(1).sum(dim=1)
        else:
            error = torch.where(mask[:, None], location - images[name], 0.0)
            total = total + error.flatten(1).square().sum(dim=1) / (2.0 * SCALE**2)
    return total
