"""What the posterior of a row sees in training: all that is present, or one or more subsets of it.

Each subset a row is encoded from is a view of it. Views are stacked: block v of the rows holds view v of
every row, so one pass of the networks decodes them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.model import Fusion, Model, Subsets
from pipeline.models.variables import repeated_mask


@dataclass(frozen=True)
class Views:
    """Subsets that rows are encoded from; rows are blocks of the batch's rows, one block per view.

    Attributes:
        given: What the posterior of each row may see.
        targets: What each row has to predict.
        weight: Factor of each row's bound. The views of a row sum to 1, except MVAE's terms, each of
            which counts once; 0 where a row lacks what the view needs.
        count: Number of views.
    """

    given: Bool[Tensor, "modality rows"]
    targets: Bool[Tensor, "modality rows"]
    weight: Float[Tensor, " rows"]
    count: int = 1

    def to(self, device: torch.device | str) -> Views:
        """Move every tensor to a device."""
        return Views(self.given.to(device), self.targets.to(device), self.weight.to(device), self.count)

    def repeated(self, draws: int) -> Views:
        """The same views for several draws each, one block of all views per draw; weights divided by them."""
        return Views(
            repeated_mask(self.given, draws),
            repeated_mask(self.targets, draws),
            self.weight.repeat(draws) / draws,
            self.count * draws,
        )


def choose_views(
    fusion: Fusion,
    subsets: Subsets,
    present: Bool[Tensor, "modality batch"],
    uniform: Float[Tensor, "batch draw"],
    targets: Bool[Tensor, "modality batch"] | None = None,
) -> Views:
    """What each row is encoded from and what it has to predict.

    - `whole`: all that is present.
    - `drawn`: one non-empty subset of it, uniformly; under `moe` one modality.
    - `each`: every modality alone, averaged over those that are present.
    - `enumerated`: every non-empty subset, averaged over those that are present.
    - `subsampled`: all that is present, every modality alone and one random subset per remaining column
      of `uniform`, each predicting what it sees; the bounds are added up.

    Args:
        fusion: Of the model.
        subsets: Which of the above.
        present: What each row has, for encoders to see.
        uniform: Numbers in [0, 1): one per row, or as many as there are random subsets.
        targets: What each row has to predict where that is more than what may be seen of it; `subsampled`
            terms predict what they see all the same. None: what is present.

    Source: Sutter, Daunhawer & Vogt 2021 (arXiv:2105.02470) for mixtures over subsets; Shi et al. 2019
        (arXiv:1911.03393) for each modality in turn; Wu & Goodman 2018 (arXiv:1802.05335) for
        sub-sampled terms.
    """
    batch = present.shape[1]
    targets = present if targets is None else targets
    match subsets:
        case "whole":
            return Views(present, targets, torch.ones(batch))
        case "drawn":
            draw = draw_one if fusion in ("moe", "mmvaeplus") else draw_subset
            return Views(draw(present, uniform[:, 0]), targets, torch.ones(batch))
        case "each":
            return _averaged(torch.eye(len(present), dtype=torch.bool), present, targets)
        case "enumerated":
            return _averaged(subset_masks(len(present)), present, targets)
        case "subsampled":
            return _subsampled(present, uniform)


def choose_one_view(
    config: Model, present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, " batch"]
) -> Bool[Tensor, "modality batch"]:
    """What one view of each row sees where a model is trained further: as in its own training, drawn."""
    subsets: Subsets = "whole" if config.seen_in_training in ("whole", "subsampled") else "drawn"
    return choose_views(config.fusion, subsets, present, uniform[:, None]).given


def subset_masks(count: int) -> Bool[Tensor, "subset modality"]:
    """Every non-empty subset of `count` modalities; row k - 1 holds the binary digits of k, lowest first."""
    rows = [digits[::-1] for digits in product((False, True), repeat=count)]
    return torch.tensor(rows[1:], dtype=torch.bool)


def draw_subset(
    present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, " batch"]
) -> Bool[Tensor, "modality batch"]:
    """One subset per row, uniform over the non-empty subsets of what is present in that row.

    Args:
        present: What each row has.
        uniform: One number in [0, 1) per row, which decides the draw.

    Returns:
        What each row is encoded from; nothing where nothing is present.

    Source: Sutter, Daunhawer & Vogt 2021 (arXiv:2105.02470): their mixture over subsets, one drawn per row.
    """
    subsets = (1 << present.sum(dim=0)) - 1
    chosen = (uniform * subsets).long().clamp(max=subsets - 1) + 1
    position = present.long().cumsum(dim=0) - 1
    return present & ((chosen >> position.clamp(min=0)) & 1).bool()


def draw_one(
    present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, " batch"]
) -> Bool[Tensor, "modality batch"]:
    """One modality per row, uniform over those present in that row; nothing where nothing is present."""
    count = present.sum(dim=0)
    chosen = (uniform * count).long().clamp(max=(count - 1).clamp(min=0))
    return present & (present.long().cumsum(dim=0) - 1 == chosen)


def _averaged(
    subsets: Bool[Tensor, "subset modality"],
    present: Bool[Tensor, "modality batch"],
    targets: Bool[Tensor, "modality batch"],
) -> Views:
    """Every subset whose modalities a row has, averaged; other subsets see nothing and weigh nothing."""
    views = len(subsets)
    missing = subsets[:, :, None] & ~present[None]
    possible = ~missing.any(dim=1)
    given = (subsets[:, :, None] & possible[:, None, :]).permute(1, 0, 2).flatten(1)
    weight = possible / possible.sum(dim=0).clamp(min=1)
    return Views(given, repeated_mask(targets, views), weight.flatten(), views)


def _subsampled(present: Bool[Tensor, "modality batch"], uniform: Float[Tensor, "batch draw"]) -> Views:
    single = torch.eye(len(present), dtype=torch.bool)[:, :, None] & present[None]
    drawn = [draw_subset(present, column) for column in uniform.T]
    given = torch.stack([present, *single, *drawn])
    seen = given.permute(1, 0, 2).flatten(1)
    return Views(seen, seen, seen.any(dim=0).float(), len(given))
