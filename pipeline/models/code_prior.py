"""What the codes of an adversarial autoencoder are held to: N(0, I), a mixture, or categories and N(0, I).

Source: Makhzani et al. 2015 (arXiv:1511.05644): mixtures as priors, and categories beside a normal style
    as in clustering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.config.objective import AdversarialRegulariser, Objective
from pipeline.models.fusion import at_least_float32

CodePrior = Literal["normal", "mixture", "categorical"]


def code_prior(objective: Objective) -> tuple[CodePrior, int]:
    """What training holds codes to, and how many components that has."""
    regulariser = objective.regulariser
    if isinstance(regulariser, AdversarialRegulariser):
        return regulariser.prior, regulariser.components
    return "normal", 0


def prior_choices(kind: CodePrior, latent: int) -> int:
    """How many uniform numbers a row's draw from the prior takes."""
    return {"normal": 0, "mixture": latent // 2, "categorical": 1}[kind]


def prior_draws(
    kind: CodePrior,
    components: int,
    normal: Float[Tensor, "batch latent"],
    uniform: Float[Tensor, "batch choice"],
) -> Float[Tensor, "batch latent"]:
    """Draws from the prior, a function of draws from N(0, I) and of uniform numbers.

    - `normal`: N(0, I).
    - `mixture`: in each pair of latents (0 and 1, 2 and 3, ...), independently, a ring of equally
      likely Gaussians around 0; neighbours are four standard deviations apart, and each latent has mean
      0 and variance 1 (for three or more components; two lie on the first axis, and the pair has it on
      average). A last latent without a partner is N(0, 1).
    - `categorical`: the first `components` latents are a one-hot category, all equally likely, the rest
      is N(0, I).

    Args:
        kind: Of the prior.
        components: Gaussians on a ring, or categories.
        normal: Draws from N(0, I).
        uniform: `prior_choices(kind, latent)` numbers in [0, 1) per row.

    Raises:
        ValueError: If the number of uniform numbers is another, or there are no more latents than
            categories.
    """
    latent = normal.shape[1]
    if uniform.shape[1] != prior_choices(kind, latent):
        raise ValueError(
            f"a {kind} prior of {latent} latents takes {prior_choices(kind, latent)} uniform numbers per "
            f"row, not {uniform.shape[1]}"
        )
    chosen = (uniform * components).long().clamp(max=components - 1)
    match kind:
        case "normal":
            return normal
        case "mixture":
            centre, sigma = _ring(components, chosen, normal)
            return torch.cat([centre + sigma * normal[:, : centre.shape[1]], normal[:, centre.shape[1] :]], 1)
        case "categorical":
            _room_for_categories(latent, components)
            category = F.one_hot(chosen[:, 0], components).to(normal.dtype)
            return torch.cat([category, normal[:, components:]], dim=1)


@dataclass(frozen=True)
class CodeDensity:
    """A prior as something to draw from.

    Attributes:
        kind: Of the prior.
        components: Gaussians on a ring, or categories.
        latent: Numbers in a code.
    """

    kind: CodePrior
    components: int
    latent: int

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "batch latent"]:
        """So many independent draws."""
        normal = torch.randn(count, self.latent, generator=generator)
        uniform = torch.rand(count, prior_choices(self.kind, self.latent), generator=generator)
        return prior_draws(self.kind, self.components, normal, uniform)


def codes(
    kind: CodePrior, components: int, features: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    """What an encoder's features are under a prior: with categories, the first are their probabilities.

    The decoder and the discriminator both see this, never the features.

    Raises:
        ValueError: If there are no more latents than categories.
    """
    if kind != "categorical":
        return features
    _room_for_categories(features.shape[1], components)
    features = at_least_float32(features)
    return torch.cat([features[:, :components].softmax(dim=1), features[:, components:]], dim=1)


def _ring(components: int, chosen: Tensor, normal: Tensor) -> tuple[Tensor, float]:
    """Centres of the chosen components, pair after pair, and their standard deviation.

    With radius r and deviation s: r sin(pi / K) = 2 s for the distance of neighbours, and
    r^2 / 2 + s^2 = 1 for the variance.
    """
    sine = math.sin(math.pi / components)
    sigma = (2.0 / sine**2 + 1.0) ** -0.5
    angle = chosen.to(normal.dtype) * (2.0 * math.pi / components)
    centre = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)
    return 2.0 * sigma / sine * centre, sigma


def _room_for_categories(latent: int, components: int) -> None:
    if latent <= components:
        raise ValueError(
            f"{components} categories and a style need more than {components} latents, not {latent}"
        )
