"""A trained model as MLflow keeps models: weights, signature, example, loader. Needs no torch."""

import io
import json
import os
import platform
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.orchestration.ledger import MODEL_FILES
from pipeline.orchestration.mirror_files import peek

LOADER = "pipeline.serving"
FOLDER = "model"
LARGEST_EXAMPLE_BYTES = 4_000_000


def write_model(train: Path, directory: Path) -> bool:
    """Write the `MLmodel` directory of a finished training.

    Args:
        train: `<root>/<name>/train`.
        directory: Where to write; exists and is empty.

    Returns:
        False if there is no model, or none that predicts something from RGB.
    """
    try:
        info = json.loads((train / "model.json").read_text(encoding="utf-8"))["info"]
        modalities, size = list(info["modalities"]), int(info["image_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if "rgb" not in modalities or len(modalities) == 1:
        return False
    data = directory / "data"
    data.mkdir()
    for name in MODEL_FILES:
        _link(train / name, data / name)
    example = _example(train.parent, size)
    (directory / "input_example.json").write_text(json.dumps({"rgb": example[None].tolist()}))
    (directory / "MLmodel").write_text(yaml.safe_dump(_description(modalities, size), sort_keys=False))
    return True


def _description(modalities: list[str], size: int) -> dict[str, Any]:
    outputs = {
        "depth": _tensor("depth", "float32", [-1, size, size]),
        "seg": _tensor("seg", "uint8", [-1, size, size]),
    }
    return {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "data": "data",
                "python_version": platform.python_version(),
            }
        },
        "signature": {
            "inputs": json.dumps([_tensor("rgb", "uint8", [-1, size, size, 3])]),
            "outputs": json.dumps([outputs[name] for name in modalities if name in outputs]),
            "params": None,
        },
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "type": "ndarray",
        },
    }


def _tensor(name: str, kind: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": kind, "shape": shape}}


def _example(run_directory: Path, size: int) -> np.ndarray:
    """The first RGB image of the dataset's test split; grey where it cannot be read."""
    record = peek(run_directory / "shard")
    shards = (
        run_directory.parent / record.outputs["dataset"] if record and "dataset" in record.outputs else None
    )
    for shard in sorted(shards.glob("test-*.tar"))[:1] if shards else []:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isfile() and ".rgb." in member.name and member.size <= LARGEST_EXAMPLE_BYTES:
                    file = tar.extractfile(member)
                    image = _decoded(member.name, file.read()) if file else None
                    return image if image is not None and image.shape == (size, size, 3) else _grey(size)
    return _grey(size)


def _decoded(name: str, content: bytes) -> np.ndarray | None:
    from PIL import Image

    try:
        if name.endswith(".npy"):
            return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError):
        return None


def _grey(size: int) -> np.ndarray:
    return np.full((size, size, 3), 128, dtype=np.uint8)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
