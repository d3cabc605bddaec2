"""Decoded samples kept in memory, when all of them fit."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Int64

from pipeline.data.loader.filling import Kept, Part, Task, shared_memory
from pipeline.data.loader.mixture import Chosen, Mixture

GIB = 2**30


class Keeper:
    """Knows which samples are decoded already, and says for each batch where its samples come from.

    Attributes:
        kept: The decoded samples of each dataset; None where they are not kept.
    """

    def __init__(self, mixture: Mixture, limit_gib: float, say: Callable[[str], None]) -> None:
        """Make room for a split of all datasets, if that is within the limit."""
        self._mixture = mixture
        layouts = [dataset.store.layout for dataset in mixture.datasets]
        counts = [dataset.length(mixture.split) for dataset in mixture.datasets]
        sizes = [layout.bytes_for(count) for layout, count in zip(layouts, counts, strict=True)]
        fits = 0 < sum(sizes) <= limit_gib * GIB
        if limit_gib and not fits:
            say(
                f"the decoded {mixture.split} samples need {sum(sizes) / GIB:.2f} GiB, more than "
                f"train.loading.cache_gib: {limit_gib:g}, so none is kept in memory"
            )
        self.kept: tuple[Kept | None, ...] = tuple(
            Kept(shared_memory(size), layout, count) if fits else None
            for layout, count, size in zip(layouts, counts, sizes, strict=True)
        )
        self._known: list[Bool[np.ndarray, " row"]] = [
            np.zeros(count if fits else 0, bool) for count in counts
        ]

    def parts(self, chosen: Chosen) -> Iterator[Part]:
        """Where the samples of a batch come from."""
        for number, dataset in enumerate(self._mixture.datasets):
            at = np.flatnonzero(chosen.dataset == number)
            rows = chosen.row[at]
            keep = self.kept[number] is not None
            known = self._known[number][rows] if keep else np.zeros(len(rows), bool)
            if known.any():
                yield Part(number, at[known], rows[known], None, keep=False)
            if not known.all():
                missing = rows[~known]
                places = dataset.places(self._mixture.split, missing)
                yield Part(number, at[~known], missing, places, keep=keep)

    def remember(self, task: Task) -> None:
        """Note that a task is done, so what it decoded is there."""
        for part in task.parts:
            if part.keep:
                self._note(part.dataset, part.rows)

    def _note(self, dataset: int, rows: Int64[np.ndarray, " row"]) -> None:
        self._known[dataset][rows] = True
