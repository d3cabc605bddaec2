"""What changes while training, as functions of samples_seen alone."""

import math


def learning_rate_share(samples_seen: int, *, samples: int, warmup_samples: int, final_share: float) -> float:
    """Share of the peak learning rate: linear warm-up from 0, times a cosine from 1 to `final_share`.

    Args:
        samples_seen: Including the update it is for, so that the first is not wasted.
        samples: Length of training.
        warmup_samples: Length of the warm-up.
        final_share: What is left at the end.

    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
    """
    progress = min(1.0, samples_seen / samples)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return warm_up(samples_seen, warmup_samples) * (final_share + (1.0 - final_share) * cosine)


def warm_up(samples_seen: int, warmup_samples: int) -> float:
    """Linear from 0 to 1, then 1; without warm-up always 1. Also beta's schedule.

    Source: Bowman et al. 2016 (arXiv:1511.06349), annealing of the KL term.
    """
    return min(1.0, samples_seen / warmup_samples) if warmup_samples > 0 else 1.0
