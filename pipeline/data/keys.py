"""Names that are safe in a tar, a file system and a URL, made from names that may not be."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 80

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_DIGITS = re.compile(r"(\d+)")
_HASH_DIGITS = 8


def unique_keys(names: Sequence[str]) -> list[str]:
    """A key `[A-Za-z0-9_-]+` per name; a name that is a key already stays as it is.

    Other characters become `_`. Where that makes two names alike, or a name is too long, a hash of
    the name is appended, so a key does not depend on what other names there are beside the alike.

    Raises:
        ValueError: If a name is repeated.
    """
    plain = [_UNSAFE.sub("_", name) for name in names]
    alike = Counter(plain)
    keys = [
        key if key == name or (alike[key] == 1 and 0 < len(key) <= LONGEST) else _with_hash(key, name)
        for key, name in zip(plain, names, strict=True)
    ]
    keys = [
        key if len(key) <= LONGEST else _with_hash(key, name) for key, name in zip(keys, names, strict=True)
    ]
    if len(set(keys)) != len(keys):
        repeated = Counter(keys).most_common(1)[0][0]
        raise ValueError(f"two samples have the key {repeated!r}; rename one of them")
    return keys


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which frame_9 comes before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


def natural_text(name: str) -> str:
    """Text whose alphabetical order is the natural order of names, where a column needs text."""
    return "".join(_as_text(part) if part.isdecimal() else part + "\0" for part in _DIGITS.split(name))


def _as_text(digits: str) -> str:
    number = str(int(digits))
    return f"{len(number):04d}{number}"


def _with_hash(key: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_DIGITS]
    return f"{key[: LONGEST - _HASH_DIGITS - 1]}-{digest}"
