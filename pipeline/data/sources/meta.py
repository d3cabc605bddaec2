"""What a person's `meta.json` says about their data: class names and, if they like, the splits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.modality import SPLITS, SplitName
from pipeline.errors import InputError


@dataclass(frozen=True)
class Meta:
    """What was found in the file; empty where it says nothing.

    Attributes:
        classes: Class names in the order of the labels.
        split_of: Split by the sample's name.
    """

    classes: tuple[str, ...] = ()
    split_of: Mapping[str, SplitName] = field(default_factory=dict)


def read_meta(path: Path) -> Meta:
    """Read `classes` and `splits`; other keys are left alone.

    Raises:
        InputError: If the file is missing or malformed, or puts a sample into two splits.
    """
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"data.source.meta: there is no file {path}; name it relative to data.source.root or set null"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(stored, dict):
        raise InputError(
            f"{path}: a JSON object with `classes` and `splits` is expected, not a {type(stored).__name__}"
        )
    splits = stored.get("splits") or {}
    if not isinstance(splits, dict) or not splits.keys() <= set(SPLITS):
        raise InputError(
            f"{path}: `splits` maps {', '.join(SPLITS)} to lists of names, not {str(splits)[:60]}"
        )
    split_of: dict[str, SplitName] = {}
    for split, names in splits.items():
        for name in _names(path, f"splits.{split}", names):
            if split_of.setdefault(name, split) != split:
                raise InputError(
                    f"{path}: {name!r} is in splits {split_of[name]} and {split}; a sample belongs to one"
                )
    if split_of and not {"train", "test"} <= set(split_of.values()):
        raise InputError(
            f"{path}: `splits` needs `train` and `test`, each with at least one name; or leave `splits` out"
        )
    return Meta(_names(path, "classes", stored.get("classes") or []), split_of)


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: `{key}` is a list of names, not {str(value)[:60]}")
    return tuple(value)
