"""What the files of a source are, told without reading them: names, sizes, and when they were changed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.config.containers import (
    BopSource,
    HypersimSource,
    Nyuv2Source,
    ParquetSource,
    WebdatasetSource,
)
from pipeline.config.data import Data
from pipeline.config.existing import DatasetSource
from pipeline.config.sources import FolderSource
from pipeline.data.storage import Storage
from pipeline.errors import InputError
from pipeline.orchestration.contents import listing_digest


def source_digest(config: Data) -> str | None:
    """SHA-256 over the listing of a source's files; None if it has none.

    Raises:
        InputError: If they are not there, or nobody answers where they are.
    """
    match config.source:
        case FolderSource() as source:
            return _folder(source.root, [*_folders(source), source.meta])
        case WebdatasetSource() as source:
            series = source.shards.values() if isinstance(source.shards, dict) else [source.shards]
            patterns = [pattern for one in series for pattern in one]
            return _files(
                Storage(source.root, source.options, source.retries), patterns, "data.source.shards"
            )
        case ParquetSource() as source:
            storage = Storage(source.root, source.options, source.retries)
            return _files(storage, source.files, "data.source.files")
        case Nyuv2Source() as source:
            table = source.labels.table if source.labels else None
            return _folder(source.root, [source.file, table, source.splits])
        case BopSource() as source:
            scenes = Storage(str(source.root)).names(source.scenes, "data.source.scenes")
            return _folder(source.root, [str(Path(scene).parent) for scene in scenes])
        case HypersimSource() as source:
            cameras = [
                path.relative_to(source.root).as_posix() for path in source.root.glob("*/images/scene_cam_*")
            ]
            table = source.labels.table if source.labels else None
            return _folder(source.root, [*cameras, table, source.splits])
        case DatasetSource() as source:
            from pipeline.data.loader.location import existing_digest

            return existing_digest(source)
        case _:
            return None


def _folders(source: FolderSource) -> list[str]:
    from pipeline.data.sources.layout import places_of  # brings pyarrow, which most commands do without

    places = places_of(source) if source.root.is_dir() else []
    return sorted({folder for place in places for folder in place.folders})


def _folder(root: Path, names: Iterable[str | None]) -> str:
    if not root.is_dir():
        raise InputError(
            f"data.source.root: there is no folder {root} (looked in {Path.cwd()}); "
            "name it with --set data.source.root=FOLDER"
        )
    return listing_digest(root, [name for name in names if name is not None])


def _files(storage: Storage, patterns: Iterable[str], setting: str) -> str:
    total = hashlib.sha256()
    names = sorted(storage.names(patterns, setting))
    for name, state in zip(names, storage.states(names), strict=True):
        total.update(f"{name}\0{state.size}\0{state.version}\n".encode())
    return total.hexdigest()
