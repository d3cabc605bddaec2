"""The image adversary's half of an update: what it is shown, what it learns, and how it pulls the decoders.

Sums over this process's rows divided by the global batch, so that adding over processes gives the
same for any number of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config.objective import ImageAdversary
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.discriminator import SceneDiscriminator, scene_masks, scene_of_batch, scene_of_decoded
from pipeline.models.variables import Decoded
from pipeline.objectives.adversarial import Kind, discriminator_loss, generator_loss, gradient_penalty


@dataclass(frozen=True)
class Pairs:
    """Real scenes and fakes; row j of the fakes is paired with row j % batch of the real scenes.

    Attributes:
        real: Without a gradient.
        fake: One or several views of the batch, one after another.
        shares: Of each view in a row's loss, summing to 1.
    """

    real: Float[Tensor, "batch row column patch"]
    fake: Float[Tensor, "pair row column patch"]
    shares: Float[Tensor, " view"]

    def by_row(self, values: Float[Tensor, " pair"]) -> Float[Tensor, " batch"]:
        """The mean over the views of each row."""
        by_view = rearrange(values, "(view batch) -> view batch", batch=len(self.real))
        return (self.shares.to(values.dtype)[:, None] * by_view).sum(dim=0)


@dataclass(frozen=True)
class Pull:
    """The generator's loss and its gradient at what was decoded.

    Attributes:
        loss: Summed over rows, divided by the global batch; detached.
        decoded: What the decoders gave, attached to them.
        gradient: Of the loss at each of them.
    """

    loss: Float[Tensor, ""]
    decoded: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]

    def term(self) -> Float[Tensor, ""]:
        """A scalar with the loss's value and gradient whose graph does not reach the discriminator."""
        pairs = zip(self.gradient, self.decoded, strict=True)
        product = torch.stack([(gradient * decoded).sum() for gradient, decoded in pairs]).sum()
        return self.loss + product - product.detach()


@dataclass(frozen=True)
class DiscriminatorLoss:
    """What the discriminator minimises and what it is made of.

    Attributes:
        total: With half r1 times R1 and half r2 times R2.
        terms: `discriminator` (the loss without penalties), `r1`, `r2` (without their factors),
            `real_logit`, `fake_logit` and `discriminator_accuracy` (share of pairs in which the real
            scene has the larger logit; 1: saturated). Detached, reduced like the total.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def choose_fakes(
    on: Literal["reconstructions", "prior", "both"], reconstructed: Decoded | None, generated: Decoded | None
) -> tuple[Decoded, ...]:
    """What the discriminator is shown as fakes.

    Raises:
        ValueError: If it is not there.
    """
    chosen = {"reconstructions": (reconstructed,), "prior": (generated,), "both": (reconstructed, generated)}
    fakes = tuple(decoded for decoded in chosen[on] if decoded is not None)
    if len(fakes) < len(chosen[on]):
        raise ValueError(f"objective.adversary.fakes: {on} needs scenes that this pass has not decoded")
    return fakes


def pair_up(
    model: SharedLatentAutoencoder, batch: Batch, fakes: Sequence[Decoded], smoothing: float
) -> Pairs:
    """Real scenes of a batch and fakes under the same masks.

    Args:
        model: Which decoded the fakes.
        batch: What they are paired with; fakes drawn from the prior borrow the masks of their row.
        fakes: Each of one or several views of the batch, one after another. All of them have the same
            share in a row's loss, and so have the views of each.
        smoothing: Of the real labels.
    """
    masks = scene_masks(batch, model)
    scenes, shares = [], []
    for decoded in fakes:
        views = len(decoded_tensors(decoded)[0]) // len(batch)
        tiled = {name: mask.repeat(views, 1, 1) for name, mask in masks.items()}
        scenes.append(scene_of_decoded(decoded, tiled, model))
        shares += [1.0 / (views * len(fakes))] * views
    real = scene_of_batch(batch, model, smoothing)
    return Pairs(real, torch.cat(scenes).to(real.dtype), torch.tensor(shares, device=real.device))


def pull_on_decoders(
    discriminator: SceneDiscriminator,
    pairs: Pairs,
    fakes: Sequence[Decoded],
    kind: Kind,
    *,
    global_batch: int,
    bf16: bool = False,
) -> Pull:
    """How the discriminator judges the fakes and where that pulls what was decoded.

    Gradients are computed at what was decoded and nowhere else, so the discriminator has none
    afterwards; whoever adds `Pull.term` to a loss takes the decoders' share with the rest of it, in one
    backward pass.

    Args:
        discriminator: Itself, not what averages its gradients over processes.
        pairs: Whose fakes are attached to `fakes`.
        fakes: What was decoded.
        kind: Which loss.
        global_batch: Rows over all processes.
        bf16: Run the discriminator under bfloat16 autocast.
    """
    device = pairs.real.device.type
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        real = discriminator(pairs.real).logits
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        fake = discriminator(pairs.fake).logits
    rows = generator_loss(kind, real.repeat(len(pairs.shares), 1), fake, discriminator.weights)
    loss = pairs.by_row(rows).sum() / global_batch
    decoded = tuple(tensor for one in fakes for tensor in decoded_tensors(one))
    return Pull(loss.detach(), decoded, torch.autograd.grad(loss, decoded))


def learn_to_tell(
    discriminator: SceneDiscriminator,
    wrapped: nn.Module,
    pairs: Pairs,
    section: ImageAdversary,
    *,
    global_batch: int,
    bf16: bool = False,
) -> DiscriminatorLoss:
    """The discriminator's loss; nothing in it is attached to the decoders.

    One forward pass over real scenes and fakes together. With penalties it runs in float32 (or better)
    whatever autocast is on around it.

    Args:
        discriminator: Itself.
        wrapped: The same behind whatever averages its gradients over processes.
        pairs: Of this process.
        section: Loss and factors of the penalties.
        global_batch: Rows over all processes.
        bf16: Run it under bfloat16 autocast, if there is no penalty.
    """
    penalised = section.r1 > 0.0 or section.r2 > 0.0
    rows, weights = len(pairs.real), discriminator.weights
    scene = torch.cat([pairs.real, pairs.fake]).detach()
    with torch.autocast(scene.device.type, torch.bfloat16, enabled=bf16 and not penalised):
        logits, embedded = wrapped(scene)
        squares = torch.zeros_like(logits[:, 0])
        if penalised:
            squares = gradient_penalty(logits, embedded, weights, discriminator.metric())
    real, fake = logits[:rows].repeat(len(pairs.shares), 1), logits[rows:]
    loss = pairs.by_row(discriminator_loss(section.loss, real, fake, weights))
    r1, r2 = squares[:rows], pairs.by_row(squares[rows:])
    total = loss + 0.5 * section.r1 * r1 + 0.5 * section.r2 * r2
    real_logit, fake_logit = (logits * weights).sum(dim=1).split([rows, len(logits) - rows])
    right = real_logit.repeat(len(pairs.shares)) > fake_logit
    terms = {
        "discriminator": loss,
        "r1": r1,
        "r2": r2,
        "real_logit": real_logit,
        "fake_logit": pairs.by_row(fake_logit),
        "discriminator_accuracy": pairs.by_row(right.to(logits.dtype)),
    }
    return DiscriminatorLoss(
        total.sum() / global_batch, {name: term.detach().sum() / global_batch for name, term in terms.items()}
    )


def gradient_at(loss: Float[Tensor, ""], decoded: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a loss at what was decoded, 0 where it does not depend on it; the loss can be used again."""
    return torch.autograd.grad(loss, decoded, retain_graph=True, allow_unused=True, materialize_grads=True)


def squared_norm(gradient: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Over this process's rows; added over processes it is that of the global batch."""
    return torch.stack([part.square().sum() for part in gradient]).sum()


def decoded_tensors(decoded: Decoded) -> tuple[Tensor, ...]:
    """What there is of it."""
    return tuple(image for image in (decoded.rgb, decoded.depth, decoded.seg) if image is not None)


def scene_events(model: SharedLatentAutoencoder) -> int:
    """Values of a whole scene: what the reconstruction of a row without gaps sums over."""
    values = {"rgb": 3, "depth": 1, "seg": 1}
    return model.image_size**2 * sum(values[name] for name in model.modalities)
