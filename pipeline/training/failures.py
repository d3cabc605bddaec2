"""What is said when an update goes wrong: which term, which samples, or how to need less memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.config.objective import Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.errors import Failed
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.gaussian import Gaussian
from pipeline.models.variables import Decoded, Output
from pipeline.models.views import Views
from pipeline.objectives.divergence import kl_to_prior
from pipeline.objectives.elbo import reconstruction_nll
from pipeline.training.checkpoint import TrainingState
from pipeline.training.peers import Peers

NAMED = 8
"""Samples that each process names, at most."""

NAME_BYTES = 96

ALLOCATOR_WORDS = ("DefaultCPUAllocator", "not enough memory", "CUDA out of memory")


def refuse_non_finite(values: Mapping[str, float], samples_seen: int, samples: Callable[[], str]) -> None:
    """Stop where a number of an update is NaN or infinite.

    Args:
        values: What the update is about to report; the same in every process.
        samples_seen: Before it.
        samples: Says which samples are to blame; asked in every process alike.

    Raises:
        FloatingPointError: Naming terms, samples and what to change.
    """
    bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"after {samples_seen} samples training produced {', '.join(bad)}; {samples()}; the last "
            "checkpoint is kept; lower train.learning_rate, lengthen train.warmup_samples or set "
            "train.clip_gradient_norm"
        )


@torch.no_grad()
def not_finite(
    model: SharedLatentAutoencoder, output: Output, batch: Batch, objective: Objective, views: Views
) -> Bool[Tensor, " batch"]:
    """The rows whose own part of a loss, or whose own scene, is NaN or infinite."""
    rows = [_by_row(image) for image in _images(output.generated)]
    if output.decoded is not None:
        parts = [*reconstruction_nll(model, output, batch, objective, views).values()]
        parts += [kl_to_prior(gaussian) for gaussian in _gaussians(output)]
        rows += [~part.isfinite().view(-1, len(batch)).all(dim=0) for part in parts]
    return torch.stack(rows).any(dim=0)


def describe_samples(names: Sequence[str], bad: Bool[Tensor, " batch"], peers: Peers) -> str:
    """The samples of an update whose own loss is not finite; if there are none, the first of all of them.

    Args:
        names: Keys of this process's rows.
        bad: Which of them are not finite.
        peers: All processes name theirs.
    """
    counts = peers.total(torch.tensor([bad.sum().item(), len(bad)], dtype=torch.float64, device=bad.device))
    count, rows = (int(number) for number in counts.tolist())
    own = [name for name, wrong in zip(names, bad.tolist(), strict=True) if wrong or not count]
    listed = _of_everyone(own, peers, bad.device)
    among = ", ".join(listed)
    if not count:
        left = f" and {rows - len(listed)} more" if rows > len(listed) else ""
        return f"no sample's own loss is to blame; those of this step: {among}{left}"
    left = f" and {count - len(listed)} more" if count > len(listed) else ""
    return f"samples whose own loss is not finite: {among}{left} ({count} of the {rows} of this step)"


@contextmanager
def explained(state: TrainingState, train: Train) -> Iterator[None]:
    """Turn what ends training into a message that says what to do.

    Raises:
        Failed: If numbers stopped being finite, or memory ran out.
    """
    try:
        yield
    except FloatingPointError as error:
        raise Failed(str(error)) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise Failed(out_of_memory_advice(error, state.samples_seen, train.accumulation)) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the processor or of a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATOR_WORDS)
    )


def out_of_memory_advice(error: BaseException, samples_seen: int, accumulation: int) -> str:
    """What to do when memory ran out."""
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"out of memory after {samples_seen} samples ({why}); the last checkpoint is kept, and the same "
        f"command goes on from it with train.accumulation: {2 * accumulation} (the same model in smaller "
        "parts, where the system allows them), fewer train.loading.workers, a smaller "
        "train.loading.cache_gib or, where the weights themselves are too large, train.sharding: full in "
        "several processes; a smaller train.batch or precision: bf16 make another model, from the start"
    )


def _gaussians(output: Output) -> list[Gaussian]:
    return [output.posterior.shared, *output.posterior.private.values()]


def _images(decoded: Decoded | None) -> list[Tensor]:
    images = (decoded.rgb, decoded.depth, decoded.seg) if decoded else ()
    return [image for image in images if image is not None]


def _by_row(image: Tensor) -> Bool[Tensor, " batch"]:
    return ~image.isfinite().flatten(1).all(dim=1)


def _of_everyone(names: Sequence[str], peers: Peers, device: torch.device) -> list[str]:
    """The first few names of every process, carried as numbers."""
    table = torch.zeros(NAMED, NAME_BYTES, device=device)
    for row, name in enumerate(names[:NAMED]):
        content = name.encode()[:NAME_BYTES]
        table[row, : len(content)] = torch.tensor(list(content), dtype=table.dtype, device=device)
    rows = [bytes(int(number) for number in row if number) for row in peers.gather(table).tolist()]
    return [row.decode(errors="replace") for row in rows if row]
