"""What each field of the config is, in words that stand in help and in error messages."""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.schema import Config
from pipeline.config.section import Section

PLAIN = {
    str: "text",
    int: "int",
    float: "float",
    bool: "true | false",
    Path: "path",
    types.NoneType: "null",
    Any: "any",
}


def field_help() -> Iterator[tuple[str, str, str, str]]:
    """Every field as (dotted key, type, default, documentation), in the order of the schema.

    The fields of one of several sections carry its kind: `data.source(folder).root`.
    """
    yield from _field_help(Config, "")


def _field_help(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, info in section.model_fields.items():
        if name == "kind":
            continue
        yield f"{prefix}{name}", type_name(info), _default(info), info.description or ""
        for choice in sections_of(info.annotation):
            kind = kind_of(choice)
            yield from _field_help(choice, f"{prefix}{name}({kind})." if kind else f"{prefix}{name}.")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else shown(value)


def shown(value: object) -> str:
    """A value as YAML would have it on one line."""
    return json.dumps(value, default=str, ensure_ascii=False)


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The sections a field may hold; none for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for inner in get_args(annotation):
            yield from sections_of(inner)


def kind_of(section: type[Section]) -> str | None:
    """What `kind` says for one of several sections; None for a section without alternatives."""
    info = section.model_fields.get("kind")
    return str(get_args(info.annotation)[0]) if info else None


def options_of(info: FieldInfo) -> list[str]:
    """The words a field may hold, for did-you-mean."""
    return list(_words(info.annotation))


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    for inner in get_args(annotation):
        if get_origin(annotation) is not Literal:
            yield from _words(inner)


def type_name(info: FieldInfo) -> str:
    """What a field may hold: `int > 0`, `poe | mopoe`, `list of text`, `section`."""
    return _named(info.annotation) + _limits(info.metadata)


def _named(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [limit for extra in inner[1:] for limit in getattr(extra, "metadata", [extra])]
        return _named(inner[0]) + _limits(limits)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_named(choice) for choice in inner))
    if origin is tuple:
        one = inner[-1] is Ellipsis
        return f"list of {_grouped(inner[0])}" if one else f"[{', '.join(_named(part) for part in inner)}]"
    if origin is dict:
        return f"mapping of {_grouped(inner[0])} to {_grouped(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        kind = kind_of(annotation)
        return f"section of kind {kind}" if kind else "section"
    return PLAIN.get(annotation, str(annotation))


def _grouped(annotation: Any) -> str:
    name = _named(annotation)
    return f"({name})" if " | " in name else name


def _limits(metadata: list[Any]) -> str:
    said = []
    for limit in metadata:
        match limit:
            case Gt(gt=bound):
                said.append(f"> {bound:g}")
            case Ge(ge=bound):
                said.append(f">= {bound:g}")
            case Lt(lt=bound):
                said.append(f"< {bound:g}")
            case Le(le=bound):
                said.append(f"<= {bound:g}")
            case MultipleOf(multiple_of=unit):
                said.append(f"a multiple of {unit:g}")
            case _ if pattern := getattr(limit, "pattern", None):
                said.append(f"matching {pattern}")
    return f" {', '.join(said)}" if said else ""
