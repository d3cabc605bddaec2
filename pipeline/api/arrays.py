"""What a person gives as arrays, checked and made into tensors, and back."""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.data.batch import ModalityBatch
from pipeline.data.modality import IGNORE_INDEX
from pipeline.errors import InputError

_LAYOUT = {
    "rgb": "(height, width, 3) uint8",
    "depth": "(height, width) float metres",
    "seg": "(height, width) uint8",
}


def is_single(name: str, array: Shaped[np.ndarray, "..."], side: int) -> bool:
    """Whether an array is one image, not a batch of them.

    Args:
        name: Of the modality.
        array: Either.
        side: Height and width of what the model takes.

    Raises:
        InputError: If it is neither.
    """
    shape = (side, side, 3) if name == "rgb" else (side, side)
    if array.shape == shape:
        return True
    if array.shape[1:] == shape:
        return False
    raise InputError(
        f"{name} has shape {array.shape}, but this model takes {side} x {side}: {_LAYOUT[name]}, or a "
        "batch of those; crop to a square and resize (depth and labels with nearest neighbour)"
    )


def as_modality(name: str, array: Shaped[np.ndarray, "batch ..."], classes: int) -> ModalityBatch:
    """Check the kind and range of values; tensors and masks.

    Raises:
        InputError: If an array does not hold what its modality means.
    """
    present = torch.ones(len(array), dtype=torch.bool)
    if name == "depth":
        if array.dtype.kind != "f":
            raise InputError(f"depth is {array.dtype}, but must be float metres, NaN where there is none")
        valid = np.isfinite(array)
        if (array[valid] <= 0).any():
            raise InputError(f"depth holds {array[valid].min():g} m; mark pixels without depth as NaN, not 0")
        metres = np.where(valid, array, 0.0).astype(np.float32)[:, None]
        return ModalityBatch(torch.from_numpy(metres), present, torch.from_numpy(valid))
    if array.dtype != np.uint8:
        raise InputError(f"{name} is {array.dtype}, but must be uint8 ({_LAYOUT[name]})")
    if name == "rgb":
        value = (
            torch.from_numpy(array.astype(np.float32) / np.float32(255.0)).permute(0, 3, 1, 2).contiguous()
        )
        return ModalityBatch(value, present, torch.ones(array.shape[:3], dtype=torch.bool))
    labelled = array != IGNORE_INDEX
    if labelled.any() and array[labelled].max() >= classes:
        raise InputError(
            f"seg holds label {array[labelled].max()}, but the model knows {classes} classes; "
            "255 means no label"
        )
    return ModalityBatch(torch.from_numpy(array.astype(np.int64)), present, torch.from_numpy(labelled))


def as_rows(name: str, value: Float[np.ndarray, "..."], width: int, single: bool) -> Float[Tensor, "batch _"]:
    """Latents with a batch axis.

    Raises:
        InputError: If they have another width.
    """
    rows = value[None] if single else value
    if rows.ndim != 2 or rows.shape[1] != width:
        expected = f"({width},)" if single else f"(batch, {width})"
        raise InputError(f"{name} latent has shape {value.shape}, but must have {expected}")
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))


def as_array(value: Float[Tensor, "batch _"], single: bool) -> Float[np.ndarray, "..."]:
    """Without the batch axis if what was given had none."""
    array = value.numpy()
    return array[0] if single else array
