"""What benchmarks/loader.py compares with: webdataset, MosaicML Streaming and LitData.

Each is given the same samples, either as arrays or as the bytes that ours are stored as, which it then
decodes with our decoder. See benchmarks/peers.txt for their environment.
"""

import importlib.machinery
import importlib.util
import itertools
import sys
import types
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import decode_sample
from pipeline.data.shards.members import decode, encode_array

MODALITIES = ("rgb", "depth", "seg")
DEPTH_SCALE_M = 0.001


def installed(name: str) -> bool:
    """Whether a peer is there."""
    return importlib.util.find_spec(name) is not None


def webdataset(directory: Path, batch: int, workers: int) -> Iterator[Any]:
    """Its own shuffled pipeline over our tars, with our decoder."""
    import webdataset as wds

    urls = sorted(str(path) for path in directory.glob("train-*.tar"))
    dataset = (
        wds
        .WebDataset(
            urls, shardshuffle=len(urls), seed=0, nodesplitter=None, workersplitter=wds.split_by_worker
        )
        .repeat()
        .shuffle(1000)
        .map(_decoded)
        .batched(batch, collation_fn=_collated)
    )
    yield from wds.WebLoader(dataset, batch_size=None, num_workers=workers)


def streaming(directory: Path, suffixes: dict[str, str], batch: int, workers: int) -> Iterator[Any]:
    """MosaicML Streaming with its default shuffle."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(directory), shuffle=True, batch_size=batch)
    collate = partial(_read_and_collated, suffixes)
    for _ in itertools.count():
        yield from DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=collate)


def litdata(directory: Path, suffixes: dict[str, str], batch: int, workers: int) -> Iterator[Any]:
    """LitData with its default shuffle."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(directory), shuffle=True)
    collate = partial(_read_and_collated, suffixes)
    for _ in itertools.count():
        yield from StreamingDataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=collate)


def prepare_streaming(directory: Path, samples: Iterable[Sample], suffixes: dict[str, str]) -> None:
    """Write its format."""
    from streaming import MDSWriter

    kinds = {"rgb": "ndarray:uint8", "depth": "ndarray:float32", "seg": "ndarray:uint8"}
    columns = {name: kind if suffixes[name] == "npy" else "bytes" for name, kind in kinds.items()}
    with MDSWriter(out=str(directory), columns=columns) as writer:
        for sample in samples:
            writer.write(_stored(sample, suffixes))


def prepare_litdata(directory: Path, samples: Iterable[Sample], suffixes: dict[str, str]) -> None:
    """Write its format."""
    from litdata.streaming import Cache

    cache = Cache(str(directory), chunk_bytes="64MB")
    for number, sample in enumerate(samples):
        cache[number] = _stored(sample, suffixes)
    cache.done()
    cache.merge()


def _stored(sample: Sample, suffixes: dict[str, str]) -> dict[str, Any]:
    """What a peer is given to store: arrays, or the bytes that ours are stored as."""
    arrays = {name: getattr(sample, name) for name in MODALITIES}
    return {
        name: array if suffixes[name] == "npy" else encode_array(name, suffixes[name], array, DEPTH_SCALE_M)
        for name, array in arrays.items()
    }


def _decoded(sample: dict[str, Any]) -> dict[str, Any]:
    decoded = decode_sample(sample)
    return {name: decoded[name] for name in MODALITIES}


def _read_and_collated(suffixes: dict[str, str], samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return _collated([
        {
            name: decode(name, suffixes[name], value, DEPTH_SCALE_M) if isinstance(value, bytes) else value
            for name, value in sample.items()
        }
        for sample in samples
    ])


def _collated(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.stack([np.asarray(sample[name]) for sample in samples]))
        for name in MODALITIES
    }


def stand_in_for_unneeded() -> None:
    """Modules that Streaming imports, but not for what is done here."""
    wanted = {
        "transformers": (),
        "transformers.feature_extraction_utils": ("BatchFeature",),
        "transformers.tokenization_utils_base": ("BatchEncoding",),
        "transformers.models": (),
        "transformers.models.auto": (),
        "transformers.models.auto.tokenization_auto": ("AutoTokenizer",),
        "torchvision": (),
        "torchvision.datasets": ("VisionDataset", "CIFAR10"),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": ("to_tensor",),
        "catalogue": (),
    }
    missing = {
        name for name in ("transformers", "torchvision", "catalogue") if not importlib.util.find_spec(name)
    }
    for name, classes in wanted.items():
        if name.partition(".")[0] in missing:
            module = types.ModuleType(name)
            module.__path__ = []
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            for one in classes:
                setattr(module, one, type(one, (), {}))
            sys.modules[name] = module
