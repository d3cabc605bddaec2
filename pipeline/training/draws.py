"""Every random number of an update, as a function of (seed, step, row in the global batch, purpose)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.objective import ImageAdversary, KlRegulariser, Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.code_prior import prior_choices, prior_draws
from pipeline.models.variables import Noise
from pipeline.models.views import Views, choose_views
from pipeline.training.randomness import normal, uniform


@dataclass(frozen=True)
class Place:
    """Which numbers are meant: those of some rows of one update of one run.

    Attributes:
        seed: Of the run.
        step: The update.
        rank: This process.
        local_batch: Rows per process.
        size: Number of processes.
        offset: Of the process's rows that are meant, the first: those of a micro-batch.
    """

    seed: int
    step: int
    rank: int
    local_batch: int
    size: int
    offset: int = 0

    def own(self, rows: int) -> Tensor:
        """Numbers in the global batch of so many of this process's rows."""
        first = self.rank * self.local_batch + self.offset
        return torch.arange(first, first + rows)

    def everyone(self) -> Tensor:
        """Numbers of all rows of the global batch."""
        return torch.arange(self.local_batch * self.size)


@dataclass(frozen=True)
class Draws:
    """What one update draws.

    Attributes:
        views: What each row's posterior sees.
        noise: Of its latents, and of dropout.
        prior: Latents to decode for an image adversary; None where it sees no such scenes.
    """

    views: Views
    noise: Noise
    prior: Noise | None


def draw(
    model: SharedLatentAutoencoder, batch: Batch, config: Model, objective: Objective, place: Place
) -> Draws:
    """The draws of an update, on the model's device."""
    rows, parameter = place.own(len(batch)), next(model.parameters())
    subsets = config.seen_in_training
    choices = config.subsampled_terms if subsets == "subsampled" else 1
    choice = uniform(place.seed, place.step, rows, "subset", choices)
    views = choose_views(
        config.fusion, subsets, batch.inputs().present().cpu(), choice, batch.present().cpu()
    )
    views = views.repeated(_draws_per_view(objective)).to(parameter.device)

    def normals(stream: str, width: int, blocks: int) -> Float[Tensor, "rows width"]:
        numbers = normal(place.seed, place.step, rows, stream, width * blocks)
        return _by_block(numbers, blocks).to(parameter.device, parameter.dtype)

    private = {name: normals(f"private/{name}", width, views.count) for name, width in model.private.items()}
    noise = Noise(
        normals("shared", model.noise_size, views.count),
        private,
        _dropped(model, config, place, rows, "", views.count),
    )
    prior = None
    if isinstance(objective.adversary, ImageAdversary) and objective.adversary.fakes != "reconstructions":
        shared = _prior(model, place, rows, "generated").to(parameter.device, parameter.dtype)
        own = {name: normals(f"generated/{name}", width, 1) for name, width in model.private.items()}
        prior = Noise(shared, own, _dropped(model, config, place, rows, "generated/", 1))
    return Draws(views, noise, prior)


def code_draws(model: SharedLatentAutoencoder, place: Place, rows: Tensor) -> Float[Tensor, "rows code"]:
    """Draws from what training holds codes to: the shared latent, then every private one."""
    width = sum(model.private.values())
    shared = _prior(model, place, rows, "code")
    return torch.cat([shared, normal(place.seed, place.step, rows, "code/private", width)], dim=1)


def permutation_draws(place: Place, latent: int) -> Float[Tensor, "rows latent"]:
    """Numbers in (0, 1) whose order permutes each latent over the rows of the global batch."""
    return uniform(place.seed, place.step, place.everyone(), "permutation", latent)


def contrast_draws(place: Place, rows: Tensor, latent: int) -> Float[Tensor, "rows latent"]:
    """N(0, I), for an implicit posterior to be compared with."""
    return normal(place.seed, place.step, rows, "contrast", latent)


def _prior(model: SharedLatentAutoencoder, place: Place, rows: Tensor, stream: str) -> Tensor:
    kind, components = model.code_prior
    numbers = normal(place.seed, place.step, rows, stream, model.latent)
    choices = uniform(place.seed, place.step, rows, f"{stream}/choice", prior_choices(kind, model.latent))
    return prior_draws(kind, components, numbers, choices)


def _dropped(
    model: SharedLatentAutoencoder, config: Model, place: Place, rows: Tensor, prefix: str, views: int
) -> dict[str, Tensor]:
    if not config.dropout:
        return {}
    parameter = next(model.parameters())
    dropped: dict[str, Tensor] = {}
    for verb, networks, blocks in (("encode", model.encoders, 1), ("decode", model.decoders, views)):
        for name, network in networks.items():
            width = cast(int, network.innermost) * blocks
            numbers = uniform(place.seed, place.step, rows, f"dropout/{prefix}{verb}/{name}", width)
            dropped[f"{verb}/{name}"] = _by_block(numbers, blocks).to(parameter.device, parameter.dtype)
    return dropped


def _draws_per_view(objective: Objective) -> int:
    regulariser = objective.regulariser
    return regulariser.importance_samples if isinstance(regulariser, KlRegulariser) else 1


def _by_block(numbers: Tensor, blocks: int) -> Tensor:
    """A row's numbers for all its views, as one block of rows per view."""
    return (
        numbers if blocks == 1 else rearrange(numbers, "row (block width) -> (block row) width", block=blocks)
    )
