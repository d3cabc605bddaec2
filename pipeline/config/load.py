"""From files and flags to a validated config, or to every mistake at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.files import read_tree
from pipeline.config.mistakes import describe_all
from pipeline.config.schema import Config
from pipeline.config.section import Section
from pipeline.errors import InputError


def load_config(path: Path, overrides: Sequence[str] = (), overlays: Sequence[Path] = ()) -> Config:
    """Read, merge and validate.

    Args:
        path: A YAML file.
        overrides: Texts `a.b=VALUE`, applied last in order.
        overlays: YAML files laid over it before the overrides, in order.

    Raises:
        InputError: Listing every mistake with its file, line, key, value and remedy.
    """
    tree = read_tree(path, overrides, overlays)
    try:
        return Config.model_validate(tree.values)
    except ValidationError as error:
        lines = describe_all(error.errors(), tree)
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        with_overlays = "".join(f" with {overlay}" for overlay in overlays)
        raise InputError("\n  ".join([f"{path}{with_overlays}: {count} in the config", *lines])) from None


def resolved_yaml(config: Config) -> str:
    """The whole config, defaults included, as YAML that loads to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def key_values(section: Section) -> dict[str, Any]:
    """What of a section decides results: JSON values without fields marked as without effect."""
    decisive: dict[str, Any] = {}
    for name, dumped in section.model_dump(mode="json").items():
        extra = type(section).model_fields[name].json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            continue
        match getattr(section, name):
            case Section() as value:
                decisive[name] = key_values(value)
            case (Section(), *_) as values:
                decisive[name] = [key_values(value) for value in values]
            case _:
                decisive[name] = dumped
    return decisive
