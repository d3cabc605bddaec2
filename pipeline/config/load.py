"""From files and flags to a validated config, or to every mistake at once."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config.schema import Config, Section
from pipeline.config.source import Tree, read_tree
from pipeline.errors import InputError


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read, merge and validate.

    Args:
        path: A YAML file.
        overrides: Texts `a.b=VALUE`, applied last in order.

    Raises:
        InputError: Listing every mistake with its file, line, key, value and remedy.
    """
    tree = read_tree(path, overrides or [])
    try:
        return Config.model_validate(tree.values)
    except ValidationError as error:
        lines = sorted({_describe(dict(item), tree) for item in error.errors()})
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise InputError(f"{path}: {count} in the config\n" + "\n".join(f"  {line}" for line in lines)) from None


def resolved_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that loads to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def key_values(section: Section) -> dict[str, Any]:
    """What of a section decides results: JSON values without fields marked as without effect."""
    dumped = section.model_dump(mode="json")
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            del dumped[name]
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            dumped[name] = key_values(value)
    return dumped


def field_help() -> Iterator[tuple[str, str, str, str]]:
    """Every field as (dotted key, type, default, documentation), depth first."""
    yield from _field_help(Config, "")


def _field_help(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, info in section.model_fields.items():
        nested = list(_sections(info.annotation))
        default = "required" if info.is_required() else _short(info.get_default(call_default_factory=True))
        shown = "" if nested and not info.is_required() else default
        yield f"{prefix}{name}", _type_name(info), shown, info.description or ""
        for choice in nested:
            kind = choice.model_fields.get("kind")
            mark = f"({get_args(kind.annotation)[0]})." if kind else "."
            yield from _field_help(choice, f"{prefix}{name}{mark}")


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is not dict:
        for inner in get_args(annotation):
            yield from _sections(inner)


def _type_name(info: FieldInfo) -> str:
    if sections := list(_sections(info.annotation)):
        return " | ".join(section.__name__ for section in sections)
    text = str(info.annotation) if get_origin(info.annotation) else getattr(info.annotation, "__name__", str(info.annotation))
    if get_origin(info.annotation) is not None and str(get_origin(info.annotation)) == "typing.Literal":
        return " | ".join(str(value) for value in get_args(info.annotation))
    return _without_metadata(text)


def _without_metadata(text: str) -> str:
    import re

    text = re.sub(r"typing\.Annotated\[(\w+), .*?\]\)?\]", r"\1", text)
    return text.replace("typing.", "").replace("NoneType", "null").replace("None", "null")


def _short(value: object) -> str:
    if isinstance(value, BaseModel):
        return ""
    return "null" if value is None else json.dumps(value, default=str)


def _describe(error: dict[str, Any], tree: Tree) -> str:
    path, section = _walk(tuple(error["loc"]))
    key = ".".join(path)
    where = tree.place(path)
    match error["type"]:
        case "extra_forbidden":
            known = list(section.model_fields) if section else []
            near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else f"allowed here: {', '.join(known)}"
            return f"{where}: {key}: unknown key; {remedy}"
        case "missing":
            return f"{where}: {key}: missing; it has no default{_documentation(section, path)}"
        case "literal_error" | "union_tag_invalid":
            return f"{where}: {key}: {_offered(error)}"
        case "union_tag_not_found":
            return f"{where}: {key}.kind: missing; choose one of {error['ctx'].get('expected_tags', 'rooms, tabletop, folder')}"
        case _:
            return f"{where}: {key}: {_lowered(error['msg'])}, not {_short(error['input'])}"


def _offered(error: dict[str, Any]) -> str:
    context = error["ctx"]
    expected = str(context.get("expected") or context.get("expected_tags"))
    given = context.get("tag", error["input"])
    options = [option.strip(" '") for option in expected.replace(" or ", ", ").split(",")]
    near = get_close_matches(str(given), options, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{_short(given)} is not allowed; choose one of {', '.join(options)}{hint}"


def _lowered(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]


def _documentation(section: type[Section] | None, path: tuple[str, ...]) -> str:
    info = section.model_fields.get(path[-1]) if section else None
    return f" ({info.description})" if info and info.description else ""


def _walk(location: tuple[int | str, ...]) -> tuple[tuple[str, ...], type[Section] | None]:
    """Drop pydantic's union tags from a location; also the section its last key belongs to."""
    path: list[str] = []
    section: type[Section] | None = Config
    choices: list[type[Section]] = []
    for step in location:
        tagged = [c for c in choices if "kind" in c.model_fields and get_args(c.model_fields["kind"].annotation)[0] == step]
        if tagged:
            section, choices = tagged[0], []
            continue
        if choices:
            section, choices = choices[0], []
        info = section.model_fields.get(str(step)) if section else None
        if info is None and path and _is_type_tag(step):
            continue
        path.append(str(step))
        choices = list(_sections(info.annotation)) if info else []
    return tuple(path), section


def _is_type_tag(step: int | str) -> bool:
    return isinstance(step, str) and any(mark in step for mark in "[(") or step in ("float", "int", "str", "bool")
