"""How well latents and true factors correspond one to one: MIG, DCI and active units.

Arrays are (sample, latent) for codes and (sample, factor) for factors, whose values are small
integers. Nothing here resamples: chance levels and intervals are in `pipeline.metrics.chance`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import entropy

Codes = Float[np.ndarray, "sample latent"]
Factors = Int[np.ndarray, "sample factor"]
Protocol = Literal["fast", "dlib-v1"]

HISTOGRAM_BINS = 20
FAST_TREES = 5
FAST_LEAF = 5
ACTIVE_VARIANCE = 0.01
_TINY = 1e-11


@dataclass(frozen=True)
class Dci:
    """Disentanglement, completeness and informativeness of a code.

    Attributes:
        disentanglement: 1 when each latent matters to one factor only, 0 when to all alike.
        completeness: 1 when one latent holds all about a factor, 0 when all latents alike do.
        informativeness: Accuracy on unseen samples with which a factor is read from the code,
            mean over factors. Chance is not 0; see `pipeline.metrics.chance`.
        importance: How much each latent matters to reading each factor; columns sum to 1.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Float[np.ndarray, "latent factor"]


def mutual_information(
    codes: Codes, factors: Factors, bins: int = HISTOGRAM_BINS
) -> Float[np.ndarray, "latent factor"]:
    """I(latent; factor) in nats, each latent cut into equal bins between its extremes.

    One far outlier squeezes all other samples into one bin, and the estimate to 0; few samples
    bias it upward, by about (bins - 1)(values - 1) / 2n.

    Source: Chen et al. 2018 (arXiv:1802.04942); the discretisation is that of Locatello et al.
        2019 (arXiv:1811.12359).
    """
    binned = _binned(codes, bins)
    columns = [_information_about(binned, factors[:, index], bins) for index in range(factors.shape[1])]
    return np.stack(columns, axis=1)


def factor_entropy(factors: Factors) -> Float[np.ndarray, " factor"]:
    """H(factor) in nats, of the values as they occur."""
    counts = [np.unique(column, return_counts=True)[1] for column in factors.T]
    return np.array([entropy(count) for count in counts], dtype=np.float64)


def mutual_information_gap(codes: Codes, factors: Factors, bins: int = HISTOGRAM_BINS) -> float:
    """MIG: how far the most informative latent is ahead of the second, over the factor's entropy.

    The mean over factors; 1 for a perfect code. Blind to two factors that share a latent.

    Raises:
        ValueError: If a factor has one value only.

    Source: Chen et al. 2018 (arXiv:1802.04942), equation 6.
    """
    available = factor_entropy(factors)
    if np.any(available <= 0.0):
        raise ValueError("a factor has one value only, so nothing can be known about it; drop it")
    ordered = np.sort(mutual_information(codes, factors, bins), axis=0)[::-1]
    second = ordered[1] if len(ordered) > 1 else np.zeros_like(available)
    return float(np.mean((ordered[0] - second) / available))


def disentanglement(importance: Float[np.ndarray, "latent factor"]) -> float:
    """D: 1 - entropy over factors of each latent's importance, weighted by the latent's total.

    Source: Eastwood & Williams 2018 (openreview By-7dz-AZ), disentanglement.
    """
    return _concentration(importance)


def completeness(importance: Float[np.ndarray, "latent factor"]) -> float:
    """C: 1 - entropy over latents of what matters to each factor, weighted by the factor's total.

    Source: Eastwood & Williams 2018 (openreview By-7dz-AZ), completeness.
    """
    return _concentration(importance.T)


def dci(
    train_codes: Float[np.ndarray, "train latent"],
    train_factors: Int[np.ndarray, "train factor"],
    test_codes: Float[np.ndarray, "test latent"],
    test_factors: Int[np.ndarray, "test factor"],
    *,
    protocol: Protocol = "dlib-v1",
    seed: int = 0,
) -> Dci:
    """Learn to read each factor from the code and see what the readers looked at.

    Args:
        train_codes: What the readers learn from.
        train_factors: The factors beside them.
        test_codes: What their accuracy is measured on.
        test_factors: The factors beside them.
        protocol: `dlib-v1`: gradient boosted trees, the values papers report; some seconds to a
            minute. `fast`: a few extremely randomised trees that see every latent at every
            split; tens of milliseconds, near the other in all but strongly rotated codes.
        seed: Of the trees.

    Source: Eastwood & Williams 2018 (openreview By-7dz-AZ); `dlib-v1` as in Locatello et al.
        2019 (arXiv:1811.12359); trees of `fast`: Geurts et al. 2006.
    """
    importance, accuracy = [], []
    for train_values, test_values in zip(train_factors.T, test_factors.T, strict=True):
        read = _read_with_boosting if protocol == "dlib-v1" else _read_with_few_trees
        weights, predicted = read(train_codes, train_values, test_codes, seed)
        importance.append(weights)
        accuracy.append(float(np.mean(predicted == test_values)))
    matrix = np.stack(importance, axis=1).astype(np.float64)
    return Dci(disentanglement(matrix), completeness(matrix), float(np.mean(accuracy)), matrix)


def active_units(posterior_means: Codes) -> int:
    """Latents whose posterior mean varies over the data: Var_x(E[z|x]) > 0.01.

    Source: Burda et al. 2015 (arXiv:1509.00519), active units.
    """
    return int(np.sum(np.var(posterior_means, axis=0) > ACTIVE_VARIANCE))


def _read_with_boosting(
    train_codes: Float[np.ndarray, "train latent"],
    train_values: Int[np.ndarray, " train"],
    test_codes: Float[np.ndarray, "test latent"],
    seed: int,
) -> tuple[Float[np.ndarray, " latent"], Int[np.ndarray, " test"]]:
    """Importance of each latent, and the predicted values."""
    from sklearn.ensemble import GradientBoostingClassifier

    reader = GradientBoostingClassifier(random_state=seed).fit(train_codes, train_values)
    return np.abs(reader.feature_importances_), reader.predict(test_codes)


def _read_with_few_trees(
    train_codes: Float[np.ndarray, "train latent"],
    train_values: Int[np.ndarray, " train"],
    test_codes: Float[np.ndarray, "test latent"],
    seed: int,
) -> tuple[Float[np.ndarray, " latent"], Int[np.ndarray, " test"]]:
    """Importance of each latent, and the predicted values.

    The trees are grown one by one, since a forest's own bookkeeping takes longer than they do. Each
    sees every latent at every split: the usual sqrt(latents) caps a perfect code at .95.
    """
    from sklearn.tree import ExtraTreeClassifier

    values, target = np.unique(train_values, return_inverse=True)
    train, test = (np.ascontiguousarray(codes, np.float32) for codes in (train_codes, test_codes))
    importance, votes = np.zeros(train.shape[1]), np.zeros((len(test), len(values)))
    for tree_seed in np.random.default_rng(seed).integers(2**31, size=FAST_TREES):
        tree = ExtraTreeClassifier(
            max_features=None, min_samples_leaf=FAST_LEAF, random_state=int(tree_seed)
        ).fit(train, target)
        importance += tree.feature_importances_
        votes += tree.predict_proba(test)
    total = importance.sum()
    return importance / total if total > 0.0 else importance, values[votes.argmax(axis=1)]


def _concentration(importance: Float[np.ndarray, "row column"]) -> float:
    """1 - normalised entropy of each row, weighted by the rows' sums."""
    columns = importance.shape[1]
    if columns == 1:
        return 1.0
    per_row = 1.0 - entropy(importance.T + _TINY, base=columns)
    total = importance.sum(axis=1)
    weight = total / total.sum() if total.sum() > 0.0 else np.full(len(total), 1.0 / len(total))
    return float(np.sum(weight * per_row))


def _binned(codes: Codes, bins: int) -> Int[np.ndarray, "sample latent"]:
    edges = [np.histogram_bin_edges(column, bins)[:-1] for column in codes.T]
    columns = [np.digitize(column, edge) - 1 for column, edge in zip(codes.T, edges, strict=True)]
    return np.stack(columns, axis=1)


def _information_about(
    binned: Int[np.ndarray, "sample latent"], factor: Int[np.ndarray, " sample"], bins: int
) -> Float[np.ndarray, " latent"]:
    samples, latents = binned.shape
    values, position = np.unique(factor, return_inverse=True)
    cell = (np.arange(latents) * bins + binned) * len(values) + position[:, None]
    counts = np.bincount(cell.ravel(), minlength=latents * bins * len(values))
    joint = counts.reshape(latents, bins, len(values)) / samples
    independent = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0.0)
    information: Float[np.ndarray, " latent"] = np.maximum(np.sum(joint * np.log(ratio), axis=(1, 2)), 0.0)
    return information
