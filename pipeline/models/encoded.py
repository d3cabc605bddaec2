"""Samples together with what frozen encoders say of them, so that nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Experts, Posterior


@dataclass(frozen=True)
class Encoded:
    """Samples and what the frozen encoders say of them, computed once.

    Attributes:
        batch: The samples.
        experts: What encoders say of them.
        codes: Where there are no encoders: found by inversion, given all that is present.
    """

    batch: Batch
    experts: Experts
    codes: Posterior | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, chosen: Int[Tensor, " row"]) -> Encoded:
        """Some rows, in the order given, repeated where named twice."""
        batch = self.batch
        part = Batch(
            {name: modality[chosen] for name, modality in batch.modalities.items()},
            tuple(batch.key[row] for row in chosen.tolist()),
            batch.index[chosen],
        )
        experts = self.experts
        private = {name: Gaussian(g.mean[chosen], g.logvar[chosen]) for name, g in experts.private.items()}
        return Encoded(
            part,
            Experts(
                experts.feature[:, chosen],
                experts.present[:, chosen],
                private,
                None if experts.sample is None else part,
            ),
            None if self.codes is None else _chosen(self.codes, chosen),
        )

    def posterior(self, model: SharedLatentAutoencoder) -> Posterior:
        """Given all that is present in each row."""
        if self.codes is not None:
            return self.codes
        return model.posterior(self.experts, self.experts.present)

    def present(self, model: SharedLatentAutoencoder) -> dict[str, Bool[Tensor, " batch"]]:
        """Rows that have the modality, for each private latent."""
        return {name: self.experts.present[model.modalities.index(name)] for name in model.private}


@torch.no_grad()
def encoded(model: SharedLatentAutoencoder, batches: Iterable[Batch]) -> Encoded:
    """Encode samples once and keep them side by side; all batches have the same modalities.

    Raises:
        ValueError: If there is no batch.
    """
    parts = []
    for batch in batches:
        experts = model.encode(batch)
        codes = None if experts.sample is None else model.posterior(experts, experts.present)
        parts.append(Encoded(batch, experts, codes))
    if not parts:
        raise ValueError("there is no batch to encode")
    return joined(*parts)


def _chosen(posterior: Posterior, rows: Int[Tensor, " row"]) -> Posterior:
    def some(q: Gaussian) -> Gaussian:
        return Gaussian(q.mean[rows], q.logvar[rows])

    return Posterior(some(posterior.shared), {name: some(q) for name, q in posterior.private.items()})


def _joined_codes(parts: Sequence[Posterior]) -> Posterior:
    def one(each: Sequence[Gaussian]) -> Gaussian:
        return Gaussian(torch.cat([q.mean for q in each]), torch.cat([q.logvar for q in each]))

    return Posterior(
        one([part.shared for part in parts]),
        {name: one([part.private[name] for part in parts]) for name in parts[0].private},
    )


def joined(*parts: Encoded) -> Encoded:
    """The rows of all parts, one part after the other."""
    modalities = {
        name: ModalityBatch(
            torch.cat([part.batch.modalities[name].value for part in parts]),
            torch.cat([part.batch.modalities[name].present for part in parts]),
            torch.cat([part.batch.modalities[name].valid for part in parts]),
        )
        for name in parts[0].batch.modalities
    }
    keys = tuple(key for part in parts for key in part.batch.key)
    batch = Batch(modalities, keys, torch.cat([part.batch.index for part in parts]))
    experts = [part.experts for part in parts]
    private = {
        name: Gaussian(
            torch.cat([e.private[name].mean for e in experts]),
            torch.cat([e.private[name].logvar for e in experts]),
        )
        for name in experts[0].private
    }
    return Encoded(
        batch,
        Experts(
            torch.cat([e.feature for e in experts], dim=1),
            torch.cat([e.present for e in experts], dim=1),
            private,
            None if experts[0].sample is None else batch,
        ),
        _joined_codes(codes) if (codes := [part.codes for part in parts if part.codes is not None]) else None,
    )
