"""One global batch in several passes: gradients added up, so that less memory gives the same update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.data.batch import Batch
from pipeline.models.variables import Output
from pipeline.training.draws import Place
from pipeline.training.losses import Judged
from pipeline.training.peers import Peers

ACTIVE_VARIANCE = 0.01
"""Variance over samples of a latent's posterior mean from which on the latent counts as active.

Source: Burda, Grosse & Salakhutdinov 2015 (arXiv:1509.00519), active units.
"""


def micro_batches(batch: Batch, place: Place, count: int) -> Iterator[tuple[Batch, Place]]:
    """Equal parts of this process's rows, each with its place in the global batch.

    Raises:
        ValueError: If the rows cannot be divided.
    """
    if len(batch) % count:
        raise ValueError(f"{len(batch)} rows cannot be divided into {count} micro-batches")
    rows = len(batch) // count
    for first in range(0, len(batch), rows):
        part = batch if count == 1 else batch.rows(first, first + rows)
        yield part, replace(place, offset=first)


@contextmanager
def gradients_stay(wrapped: Iterable[nn.Module], *, here: bool) -> Iterator[None]:
    """Within it no gradient is averaged over processes, if `here`: before the last of several passes."""
    with ExitStack() as stack:
        for module in wrapped if here else ():
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield


@dataclass
class Tally:
    """What the passes of an update report, added up.

    Attributes:
        terms: Losses and terms of both players.
        factors: Numbers that are the same in every pass and process.
        moments: Of the posterior means over this process's rows.
        rows: How many those are.
    """

    terms: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    moments: list[Tensor] = field(default_factory=list)
    rows: int = 0

    def add(self, loss: Judged, judged: Judged | None, output: Output) -> None:
        """Count one pass."""
        parts = {"loss": loss.total.detach(), **loss.terms, **(judged.terms if judged else {})}
        self.terms = {name: self.terms[name] + part for name, part in parts.items()} if self.terms else parts
        self.factors = {name: float(factor) for name, factor in loss.factors.items()}
        if output.decoded is None:
            return
        mean = output.posterior.shared.mean.detach()
        own = [mean.sum(dim=0), mean.square().sum(dim=0)]
        self.moments = [a + b for a, b in zip(self.moments, own, strict=True)] if self.moments else own
        self.rows += len(mean)

    def report(self, peers: Peers) -> dict[str, float]:
        """Losses and terms added up over processes, and active latents counted."""
        local = [torch.stack(list(self.terms.values())), *self.moments]
        totals = peers.total(torch.cat([part.double() for part in local]))
        values = dict(zip(self.terms, totals[: len(self.terms)].tolist(), strict=True))
        if self.moments:
            first, second = (totals[len(self.terms) :] / (self.rows * peers.size)).chunk(2)
            values["active_units"] = float(((second - first.square()) > ACTIVE_VARIANCE).sum())
        return values | self.factors
