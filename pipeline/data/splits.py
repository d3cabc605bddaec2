"""Which samples are for training, for testing, and kept apart."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from jaxtyping import Bool

from pipeline.data.hashing import key_of, permutation
from pipeline.data.modality import IGNORE_INDEX, Factor, SplitName
from pipeline.errors import InputError

_SPLIT = 4


def split_by_blocks(count: int, block: int, test_fraction: float, seed: int) -> list[SplitName]:
    """Put blocks of neighbours into train or test; at least one block goes to each.

    Args:
        count: Number of samples, in the order in which they are neighbours.
        block: Neighbours that stay together.
        test_fraction: Share of samples for testing, met as nearly as whole blocks allow.
        seed: Chooses the blocks.

    Raises:
        InputError: If there are fewer than two blocks.
    """
    starts = list(range(0, count, block))
    if len(starts) < 2:
        raise InputError(
            f"{count} samples in blocks of {block} (data.block) cannot be divided into training and test; "
            "give more samples or use smaller blocks"
        )
    splits: list[SplitName] = ["train"] * count
    tested = 0
    for place in permutation(len(starts), key_of(seed, _SPLIT))[:-1].tolist():
        members = range(starts[place], min(starts[place] + block, count))
        target = test_fraction * count
        if tested and abs(tested + len(members) - target) >= abs(tested - target):
            break
        for member in members:
            splits[member] = "test"
        tested += len(members)
    return splits


def held_out_values(
    wanted: Mapping[str, Sequence[int | str]], factors: Sequence[Factor]
) -> dict[str, frozenset[int]]:
    """Value indices per factor from the names or indices of `data.held_out.factors`.

    Raises:
        InputError: If a factor or value is unknown, or every value of a factor is held out.
    """
    by_name = {factor.name: factor for factor in factors}
    held_out = {}
    for name, values in wanted.items():
        if name not in by_name:
            raise InputError(_unknown("data.held_out.factors", name, list(by_name), "this source's factors"))
        factor = by_name[name]
        held_out[name] = frozenset(_value_index(factor, value) for value in values)
        if len(held_out[name]) == len(factor.values):
            raise InputError(
                f"data.held_out.factors.{name}: all its values are held out; leave some for training"
            )
    return held_out


def held_out_labels(wanted: Sequence[str], class_names: Sequence[str] | None) -> frozenset[int]:
    """Labels of `data.held_out.classes`; without class names, classes are named by number.

    Raises:
        InputError: If a class is unknown.
    """
    names = [str(label) for label in range(IGNORE_INDEX)] if class_names is None else list(class_names)
    for name in wanted:
        if name not in names:
            known = ["0", "1", "..."] if class_names is None else names
            raise InputError(_unknown("data.held_out.classes", name, known, "this source's classes"))
    return frozenset(names.index(name) for name in wanted)


def keep_apart(held_out: Bool[np.ndarray, " sample"], splits: Sequence[SplitName]) -> list[SplitName]:
    """The split of every sample, given those of the samples that are not held out."""
    rest = iter(splits)
    return ["heldout" if apart else next(rest) for apart in held_out.tolist()]


def _value_index(factor: Factor, value: int | str) -> int:
    if isinstance(value, int):
        if 0 <= value < len(factor.values):
            return value
        raise InputError(
            f"data.held_out.factors.{factor.name}: {value} is no index of its {len(factor.values)} values; "
            f"allowed are 0..{len(factor.values) - 1} or {', '.join(factor.values)}"
        )
    if value not in factor.values:
        raise InputError(
            _unknown(f"data.held_out.factors.{factor.name}", value, list(factor.values), "its values")
        )
    return factor.values.index(value)


def _unknown(field: str, name: str, known: list[str], what: str) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{field}: unknown {name!r}; {meant}{what} are: {', '.join(known) or '(none)'}"
