"""What is said about each mistake in a config: where it is, what it is, and what to write instead."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.config.fields import kind_of, options_of, sections_of, shown, type_name
from pipeline.config.files import KeyPath, Tree
from pipeline.config.schema import Config
from pipeline.config.section import Section


def describe_all(errors: Sequence[ErrorDetails], tree: Tree) -> list[str]:
    """One line per mistake, in the order of the files; the branches of a union are one mistake."""
    lines = {_describe(error, tree): tree.place(_find(error["loc"])[0]) for error in errors}
    return sorted(lines, key=lambda line: _in_file_order(lines[line]))


def _describe(error: ErrorDetails, tree: Tree) -> str:
    path, owner, info = _find(error["loc"])
    where, key = tree.place(path), ".".join(path)
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: {key}: unknown key{_instead(path[-1], list(owner.model_fields), 'known here')}"
        case "missing":
            needed = f" ({info.description.rstrip('.')})" if info and info.description else ""
            return f"{where}: {key}: missing, and it has no default{needed}"
        case "value_error":
            return (
                f"{where}: {key}: {error['msg'].removeprefix('Value error, ')}"
                if key
                else f"{where}: {error['msg']}"
            )
        case "union_tag_not_found" | "union_tag_invalid":
            return _wrong_kind(path, info, tree)
        case _:
            return _wrong_value(path, info, tree)


def _wrong_kind(path: KeyPath, info: FieldInfo | None, tree: Tree) -> str:
    kinds = [kind for section in sections_of(info.annotation if info else None) if (kind := kind_of(section))]
    given = _value_at((*path, "kind"), tree)
    where, key = tree.place((*path, "kind")), ".".join((*path, "kind"))
    if given is None:
        return f"{where}: {key}: missing; choose one of {', '.join(kinds)}"
    return f"{where}: {key}: must be {' | '.join(kinds)}, not {shown(given)}{_instead(given, kinds)}"


def _wrong_value(path: KeyPath, info: FieldInfo | None, tree: Tree) -> str:
    given = _value_at(path, tree)
    where, key = tree.place(path), ".".join(path)
    if info is None:
        return f"{where}: {key or 'config'}: must be a section of keys and values, not {shown(given)}"
    if not key or list(sections_of(info.annotation)):
        keys = ", ".join(
            dict.fromkeys(name for section in sections_of(info.annotation) for name in section.model_fields)
        )
        return f"{where}: {key}: must be a section with keys such as {keys}, not {shown(given)}"
    return f"{where}: {key}: must be {type_name(info)}, not {shown(given)}{_instead(given, options_of(info))}"


def _instead(given: object, options: list[str], otherwise: str = "") -> str:
    near = get_close_matches(str(given), options, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; {otherwise}: {', '.join(options)}" if otherwise else ""


def _find(location: tuple[int | str, ...]) -> tuple[KeyPath, type[Section], FieldInfo | None]:
    """The field a location is about, without union tags, indices and what lies inside a plain value.

    Returns:
        Its path, the section it belongs to, and the field; None for a key the section does not know.
    """
    path: KeyPath = ()
    owner: type[Section] = Config
    info: FieldInfo | None = None
    choices: list[type[Section]] = [Config]
    for step in location:
        tagged = [section for section in choices if kind_of(section) == step]
        if len(choices) > 1 and tagged:
            choices = tagged
            continue
        if not choices:
            break
        owner = choices[0]
        info = owner.model_fields.get(str(step))
        path = (*path, str(step))
        choices = list(sections_of(info.annotation)) if info else []
    return path, owner, info


def _value_at(path: KeyPath, tree: Tree) -> Any:
    value: Any = tree.values
    for key in path:
        value = value.get(key) if isinstance(value, dict) else value
    return value


def _in_file_order(place: str) -> tuple[str, int]:
    name, _, line = place.rpartition(":")
    return (name, int(line)) if line.isdigit() else (place, 0)
