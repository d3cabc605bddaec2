"""Where the tars of a dataset are: beside its description, in another directory, or behind a URL.

A directory whose `location.json` names another place holds only description and index. Needs no torch.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.config.existing import DatasetSource
from pipeline.data.loader.verified import cache_home
from pipeline.data.modality import DatasetInfo
from pipeline.data.shards.dataset import INDEX, INFO, QUARANTINE
from pipeline.data.shards.description import read_description
from pipeline.data.storage import Storage
from pipeline.errors import InputError

LOCATION = "location.json"


@dataclass(frozen=True)
class Location:
    """Where tars are.

    Attributes:
        shards: A directory or a URL.
        cache: Where copies of remote tars lie; None: in this person's cache directory.
        cache_gib: How large that may become.
    """

    shards: str
    cache: str | None
    cache_gib: float = 50.0

    @property
    def is_remote(self) -> bool:
        """Whether tars have to be fetched."""
        return "://" in self.shards

    @property
    def home(self) -> Path:
        """Where copies of all datasets lie."""
        return Path(self.cache) if self.cache else cache_home() / "shards"

    def copies(self) -> Path:
        """Where copies of this dataset lie."""
        return self.home / sha256(self.shards.encode()).hexdigest()[:16]


def located(place: Path | str, cache: Path | None = None, cache_gib: float = 50.0) -> tuple[Path, Location]:
    """A local directory with description and index, and where the tars are.

    Args:
        place: A dataset directory, or the URL of one.
        cache: Where copies of what is remote lie; None: in this person's cache directory.
        cache_gib: How large that may become.

    Raises:
        InputError: If something remote cannot be fetched, or `location.json` is damaged.
    """
    copies = str(cache) if cache else None
    if "://" in str(place):
        location = Location(str(place).rstrip("/"), copies, cache_gib)
        directory = location.copies()
        fetch_description(location.shards, directory)
        return directory, location
    directory = Path(place)
    stored = directory / LOCATION
    if not stored.exists():
        return directory, Location(str(directory), copies, cache_gib)
    try:
        return directory, Location(**json.loads(stored.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{stored}: cannot be read ({error}); run the shard stage again") from None


def local_tars(directory: Path) -> Path | None:
    """Where the tars of a dataset directory are on this machine; None if they are behind a URL.

    Raises:
        InputError: If `location.json` is damaged.
    """
    _, location = located(directory)
    return None if location.is_remote else Path(location.shards)


def fetch_description(url: str, directory: Path) -> None:
    """Fetch `dataset.json`, and `index.parquet` unless the one that is there belongs to it.

    Raises:
        InputError: If one of them cannot be fetched.
    """
    storage = Storage(url, field="data.source.path")
    description = storage.read_whole(INFO)
    of, known = directory / f".{INDEX}.of", sha256(description).hexdigest()
    if (directory / INDEX).exists() and of.exists() and of.read_text() == known:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in ((INDEX, storage.read_whole(INDEX)), (INFO, description)):
        partial = directory / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(directory / name)
    of.write_text(known)


def existing_digest(source: DatasetSource) -> str:
    """Names the content of an existing dataset: its description holds every tar's SHA-256.

    Raises:
        InputError: If there is none, or nobody answers where it is.
    """
    if source.is_remote:
        content = Storage(source.path.rstrip("/"), field="data.source.path").read_whole(INFO)
        return sha256(content).hexdigest()
    path = Path(source.path).expanduser() / INFO
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"data.source.path: {path}: {error.strerror}; {path.parent} is not a dataset directory"
        ) from None


def adopt_dataset(source: DatasetSource, image_size: int, directory: Path) -> DatasetInfo:
    """Make a directory that stands for an existing dataset: its description and index, none of its tars.

    Args:
        source: Where it is.
        image_size: What the run expects of it.
        directory: What is written to.

    Raises:
        InputError: If there is no dataset, or its pictures have another size.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if source.is_remote:
        place = source.path.rstrip("/")
        fetch_description(place, directory)
        (directory / f".{INDEX}.of").unlink()
        refused = Storage(place, field="data.source.path").read_whole(QUARANTINE)
        (directory / QUARANTINE).write_bytes(refused)
    else:
        home, location = located(Path(source.path).expanduser().resolve())
        place = location.shards
        for name in (INFO, INDEX, QUARANTINE):
            try:
                (directory / name).write_bytes((home / name).read_bytes())
            except OSError as error:
                raise InputError(
                    f"data.source.path: {home / name}: {error.strerror}; {home} is not a dataset directory"
                ) from None
    info = read_description(directory / INFO).info
    if info.image_size != image_size:
        raise InputError(
            f"data.image_size is {image_size}, but the pictures of {source.path} are {info.image_size} px; "
            f"set data.image_size: {info.image_size}"
        )
    cache = str(source.cache) if source.cache else None
    stored = json.dumps(asdict(Location(place, cache, source.cache_gib)), indent=1)
    (directory / LOCATION).write_text(stored + "\n", encoding="utf-8")
    return info
