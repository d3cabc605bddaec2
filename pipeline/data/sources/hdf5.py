"""Arrays in HDF5 files: nothing outside the file is followed, and sizes are known before anything is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from pipeline.data.pictures.files import MOST_BYTES
from pipeline.data.refusal import Refused
from pipeline.errors import InputError


def require_h5py() -> None:
    """Make sure HDF5 can be read.

    Raises:
        InputError: If h5py is not installed.
    """
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise InputError(
            "this source reads HDF5, which needs h5py: pip install 'triptych[hdf5]' (in a checkout: "
            "pip install -c constraints.txt -e '.[hdf5]')"
        ) from None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file, for reading.

    Raises:
        Refused: If it is none.
    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise Refused("missing", f"{path.name} is not there", "download it again") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused("unreadable", f"{path.name}: not an HDF5 file: {error}", "download it again") from None
    with file:
        yield file


def array_in(file: Any, name: str, kinds: str = "uif") -> Any:
    """A dataset of plain numbers inside the file itself; nothing of it is read yet.

    Args:
        file: An open HDF5 file.
        name: Of the dataset, at the top of the file.
        kinds: Numpy's letters of the kinds of numbers that are taken.

    Raises:
        Refused: If it is not there, leads to another file, or holds something else than numbers.
    """
    import h5py

    label = f"{Path(file.filename).name}: {name}"
    link = file.get(name, getlink=True) if name in file or name in file.keys() else None
    if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
        raise Refused("link", f"{label} is a link; links are not followed", "store the array itself")
    found = None if link is None else file[name]
    if not isinstance(found, h5py.Dataset):
        raise Refused(
            "missing", f"{label} is not there; there are {', '.join(list(file)[:8])}", "check the file"
        )
    if found.external or found.is_virtual:
        raise Refused("link", f"{label} lies in other files; they are not opened", "store the array itself")
    if found.dtype.hasobject:
        raise Refused("pickle", f"{label} holds objects", "store plain numbers")
    if found.dtype.kind not in kinds:
        raise Refused("wrong_channels", f"{label} holds {found.dtype}", "store plain numbers")
    return found


def read(found: Any, *part: slice | int) -> Shaped[np.ndarray, "..."]:
    """Some of a dataset.

    Raises:
        Refused: If that would be too large, or is damaged.
    """
    lengths = [
        len(range(*each.indices(size)))
        for each, size in zip(part, found.shape, strict=False)
        if isinstance(each, slice)
    ]
    count = int(np.prod([*lengths, *found.shape[len(part) :]], dtype=object))
    if count * found.dtype.itemsize > MOST_BYTES:
        raise Refused(
            "too_large", f"{found.name}: an array of shape {found.shape}", "make the picture smaller"
        )
    try:
        return np.asarray(found[part])
    except (OSError, RuntimeError) as error:
        raise Refused("unreadable", f"{found.name}: {error}", "download the file again") from None
