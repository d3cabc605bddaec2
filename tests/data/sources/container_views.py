"""Views whose every corner differs, so that a turned one is noticed, and what must become of them."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import Data
from pipeline.data.modality import Sample
from pipeline.data.refusal import Refusal
from pipeline.data.sources import Catalogue, open_source

HEIGHT, WIDTH, SIZE = 32, 48, 32
CLASSES = ("floor", "cup", "box")
_SQUARE = np.s_[:, (WIDTH - HEIGHT) // 2 : (WIDTH + HEIGHT) // 2]


def rgb(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def depth_mm(number: int) -> np.ndarray:
    """Farther to the right and, more slowly, downwards; one hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    depth = (1000 + 100 * number + 20 * columns + 3 * rows).astype(np.uint16)
    depth[4, 12] = 0
    return depth


def depth_m(number: int) -> np.ndarray:
    """What the depth of a sample must be."""
    stored = depth_mm(number)
    return np.where(stored == 0, np.nan, stored * 0.001).astype(np.float32)[_SQUARE]


def labels(number: int) -> np.ndarray:
    seg = np.zeros((HEIGHT, WIDTH), np.uint8)
    seg[5:11, 10:30] = 1
    seg[20:25, 12:16] = 1 + number % 2
    seg[0, 8:12] = 255
    return seg


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def members(number: int) -> dict[str, bytes]:
    """The members of a sample by what their names end in."""
    return {
        "rgb.png": png(rgb(number)),
        "depth.png": png(depth_mm(number)),
        "seg.png": png(labels(number)),
    }


def tar_of(named: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar, as the library writes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in named:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return stream.getvalue()


def tar_of_samples(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    return tar_of(
        (f"{key}.{ending}", content) for key, there in samples.items() for ending, content in there.items()
    )


def config_of(source: Mapping[str, Any], **data: Any) -> Data:
    return Data.model_validate(
        {"source": source, "image_size": SIZE, "test_fraction": 0.5, "workers": 1} | data
    )


def opened(source: Mapping[str, Any], **data: Any) -> Catalogue:
    return open_source(config_of(source, **data))


def loaded(catalogue: Catalogue) -> list[Sample | Refusal]:
    """Everything a catalogue has, loaded at once."""
    return list(catalogue.load(catalogue.entries[:]))


def only(catalogue: Catalogue) -> Sample:
    """The first sample of a catalogue."""
    (sample,) = catalogue.load(catalogue.entries[:1])
    assert isinstance(sample, Sample), sample
    return sample


def refusals(catalogue: Catalogue) -> dict[str, str]:
    """Reason by origin of what was refused."""
    return {item.origin: item.reason for item in loaded(catalogue) if isinstance(item, Refusal)}


def check(sample: Sample | Refusal, number: int, *, leave_out: Iterable[str] = ()) -> None:
    """A sample is view `number`, right in every pixel."""
    assert isinstance(sample, Sample), sample
    gone = set(leave_out)
    for name, found, expected in (
        ("rgb", sample.rgb, rgb(number)[_SQUARE]),
        ("depth", sample.depth, depth_m(number)),
        ("seg", sample.seg, labels(number)[_SQUARE]),
    ):
        if name in gone:
            assert found is None, name
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
