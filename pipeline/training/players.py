"""The second player of a system: its discriminators, of images and of latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.config.objective import (
    AdversarialRegulariser,
    AvbRegulariser,
    ImageAdversary,
    Objective,
    TotalCorrelation,
)
from pipeline.config.training import Train
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.discriminator import build_discriminator
from pipeline.models.latent_discriminator import (
    ContrastDiscriminator,
    LatentDiscriminator,
    scene_channels,
)

IMAGE, LATENT = "image", "latent"

BETAS = {IMAGE: (0.0, 0.99), LATENT: (0.5, 0.99)}
"""Adam's, for each discriminator: little or no momentum against a moving target.

Source: Huang et al. 2024 (arXiv:2501.05441) and Kim & Mnih 2018 (arXiv:1802.05983), training settings.
"""


def build_discriminators(objective: Objective, model: SharedLatentAutoencoder, seed: int) -> nn.ModuleDict:
    """Those that the objective asks for, under `image` and `latent`; weights depend on the seed alone."""
    players: dict[str, nn.Module] = {}
    if isinstance(objective.adversary, ImageAdversary):
        players[IMAGE] = build_discriminator(objective.adversary, model, seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        match objective.regulariser:
            case AdversarialRegulariser(width=width):
                players[LATENT] = LatentDiscriminator(model.latent + sum(model.private.values()), width)
            case TotalCorrelation(estimator="discriminator", width=width):
                players[LATENT] = LatentDiscriminator(model.latent, width)
            case AvbRegulariser(width=width):
                channels = scene_channels(model.input_channels)
                players[LATENT] = ContrastDiscriminator(channels, model.image_size, model.latent, width)
    return nn.ModuleDict(players)


def make_discriminator_optimizer(
    discriminators: nn.ModuleDict, objective: Objective, train: Train
) -> torch.optim.AdamW | None:
    """Adam with a rate and little momentum of each discriminator's own; None if there is none."""
    rates: dict[str, float] = {}
    if isinstance(objective.adversary, ImageAdversary):
        rates[IMAGE] = objective.adversary.learning_rate
    if isinstance(objective.regulariser, AdversarialRegulariser | TotalCorrelation | AvbRegulariser):
        rates[LATENT] = objective.regulariser.learning_rate
    groups = [
        {"params": list(player.parameters()), "peak": rates[name], "betas": BETAS[name]}
        for name, player in discriminators.items()
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, weight_decay=0.0, fused=True) if groups else None


@contextmanager
def frozen(discriminators: nn.Module) -> Iterator[None]:
    """Gradients pass through, and none stays: the model's step."""
    discriminators.requires_grad_(False)
    try:
        yield
    finally:
        discriminators.requires_grad_(True)
