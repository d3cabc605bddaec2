"""Adapt a decoder to a few examples while rehearsing what it knew; encoders stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.config.schema import Adapt
from pipeline.models.adapters import adapter_state, attach_adapter, detach_adapter, load_adapter_state
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.encoded import Encoded, joined
from pipeline.models.gaussian import Gaussian
from pipeline.models.pretrained import Pretrained
from pipeline.models.views import choose_one_view
from pipeline.objectives.likelihood import nll


@contextmanager
def decoder_adapted(model: SharedLatentAutoencoder, rank: int, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the model decodes with the adapter; an empty state is no adapter."""
    decoders = model.decoders
    if not state:
        yield
        return
    attach_adapter(decoders, rank, seed=0)
    try:
        load_adapter_state(decoders, state)
        yield
    finally:
        detach_adapter(decoders)


def adapt_decoder(
    pretrained: Pretrained,
    support: Encoded,
    replay: Encoded,
    config: Adapt,
    seed: int,
    after_step: Callable[[float], None],
) -> dict[str, Tensor]:
    """Train a low-rank adapter of all decoders on the support and on replayed source samples.

    Minimises the negative ELBO that training minimised, row by row from what `choose_given` lets the
    posterior see. Encoders and learned scales are frozen, so its divergences are constants and the
    negative log-likelihood of draws from the posterior is all that is left. Nats, summed over valid
    events, then over rows, divided by the batch. The learning rate falls linearly to 0.

    Args:
        pretrained: Its model is left as it was.
        support: The examples.
        replay: Samples of the source, from which each step draws `config.replay` of its batch.
        config: Steps, batch, rank, learning rate.
        seed: Decides rows, subsets and noise.
        after_step: Told the loss of each step.

    Returns:
        The adapter's parameters.

    Raises:
        FloatingPointError: If the loss stops being finite.
    """
    model = pretrained.model
    pool = joined(support, replay)
    parameters = attach_adapter(model.decoders, config.rank, seed)
    try:
        optimizer = torch.optim.Adam(parameters.values(), lr=config.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / config.steps)
        for step in range(config.steps):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
            rows = pool.rows(_draw_rows(len(support), len(replay), config, rng))
            loss = _negative_log_likelihood(pretrained, rows, rng)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the adaptation loss is {loss.item()} at step {step}; lower adapt.learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            after_step(loss.item())
        return adapter_state(model.decoders)
    finally:
        detach_adapter(model.decoders)


def _draw_rows(support: int, replay: int, config: Adapt, rng: torch.Generator) -> Int[Tensor, " row"]:
    """Rows of support followed by replay: every support example equally often, replay at random."""
    replayed = min(round(config.replay * config.batch), config.batch - 1) if replay else 0
    fresh = config.batch - replayed
    rounds = [torch.randperm(support, generator=rng) for _ in range(-(-fresh // support))]
    return torch.cat([
        torch.cat(rounds)[:fresh],
        support + torch.randint(replay or 1, (replayed,), generator=rng),
    ])


def _negative_log_likelihood(pretrained: Pretrained, rows: Encoded, rng: torch.Generator) -> Tensor:
    model, objective = pretrained.model, pretrained.objective
    uniform = torch.rand(len(rows), generator=rng)
    given = choose_one_view(pretrained.model_config, rows.experts.present, uniform)
    posterior = rows.posterior(model) if rows.codes else model.posterior(rows.experts, given)

    def draw(gaussian: Gaussian) -> Tensor:
        return gaussian.sample(torch.randn(gaussian.mean.shape, generator=rng))

    decoded = model.decode(draw(posterior.shared), {name: draw(w) for name, w in posterior.private.items()})
    weights = {"rgb": objective.rgb.weight, "depth": objective.depth.weight, "seg": objective.seg.weight}
    terms = nll(model, decoded, rows.batch, objective)
    total = torch.stack([weights[name] * term for name, term in terms.items()])
    return total.sum() / len(rows)
