"""Config files as data that remembers where each value was written.

YAML with `extends:` (a file or a list, relative to the file that names it) and `--set a.b=VALUE`.
Numbers follow YAML 1.2, so `1e-3` is a float; a key written twice is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError

KeyPath = tuple[str, ...]

YAML_1_2_FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)


_KINDS: dict[type[yaml.Node], str] = {yaml.ScalarNode: "single value", yaml.SequenceNode: "list"}


class _Loader(yaml.SafeLoader):
    """SafeLoader whose numbers follow YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_1_2_FLOAT, list("-+0123456789."))


@dataclass
class Tree:
    """Nested plain values and, per key path, the place that wrote it."""

    values: dict[str, Any] = field(default_factory=dict)
    written_at: dict[KeyPath, str] = field(default_factory=dict)

    def overlay(self, other: "Tree") -> None:
        """Let `other` win, key by key.

        An empty mapping empties; a mapping of another `kind` replaces the whole mapping.
        """
        _merge(self.values, other.values)
        self.written_at |= other.written_at

    def place(self, path: KeyPath) -> str:
        """Where the value at `path`, or the nearest thing around it, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.written_at:
                return self.written_at[path[:length]]
        return "config"


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        here = below.get(key)
        if isinstance(here, dict) and isinstance(value, dict) and value and _same_kind(here, value):
            _merge(here, value)
        else:
            below[key] = value


def _same_kind(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return "kind" not in above or bool(above["kind"] == below.get("kind"))


def read_tree(path: Path, overrides: Sequence[str], overlays: Sequence[Path] = ()) -> Tree:
    """Read a config file, what it extends, the files laid over it, and `--set` overrides.

    Raises:
        InputError: If a file is missing, is not YAML, repeats a key, extends itself, or an
            override has no `=`.
    """
    tree = _read_file(path, ())
    for overlay in overlays:
        tree.overlay(_read_file(overlay, ()))
    for override in overrides:
        tree.overlay(_read_override(override))
    return tree


def _read_file(path: Path, extending: tuple[Path, ...]) -> Tree:
    resolved = path.resolve()
    if resolved in extending:
        chain = " -> ".join(str(p) for p in (*extending, resolved))
        raise InputError(f"{path}: extends itself: {chain}")
    own = _parse(path)
    extends = own.values.pop("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{own.place(('extends',))}: extends must be a file name or a list of them, not {extends!r}"
        )
    tree = Tree()
    for name in names:
        base = path.parent / name
        if not base.is_file():
            raise InputError(f"{own.place(('extends',))}: extends {name!r}, but there is no file {base}")
        tree.overlay(_read_file(base, (*extending, resolved)))
    tree.overlay(own)
    return tree


def _parse(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file{_neighbours(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a config: {error}") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if node is None:
        return Tree()
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}: a config is a mapping of keys to values, not a {_KINDS[type(node)]}")
    return Tree(_plain(text, path), _places(node, str(path), ()))


def _plain(text: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    assert isinstance(values, dict)
    return values


def _places(node: yaml.MappingNode, source: str, prefix: KeyPath) -> dict[KeyPath, str]:
    places: dict[KeyPath, str] = {}
    for key_node, value_node in node.value:
        place = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError(f"{place}: a key must be a plain word")
        path = (*prefix, key_node.value)
        if path in places:
            raise InputError(
                f"{place}: {'.'.join(path)} is written twice (first at {places[path]}); keep one"
            )
        places[path] = place
        if isinstance(value_node, yaml.MappingNode):
            places |= _places(value_node, source, path)
    return places


def _read_override(override: str) -> Tree:
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise InputError(f"--set {override}: write it as --set a.b=VALUE")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: {text!r} is not a YAML value") from None
    path = tuple(name.split("."))
    nested: Any = value
    for key in reversed(path):
        nested = {key: nested}
    return Tree(nested, {path[:length]: f"--set {name}" for length in range(1, len(path) + 1)})


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1, cutoff=0.4)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
