"""The colours of a picture."""

import numpy as np
from jaxtyping import UInt8

from pipeline.data.pictures.picture import Picture
from pipeline.data.refusal import Refused

_OPAQUE = 255


def colours(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of 8 bits; transparency is dropped where everything is opaque.

    Raises:
        Refused: If it is grey, transparent, or not of 8 bits.
    """
    array = picture.array
    if picture.palette is not None:
        array = picture.palette[array]
    if array.ndim == 3 and array.dtype == np.uint8 and picture.mode in ("RGB", "RGBA", "P", "uint8"):
        if array.shape[2] == 3:
            return array
        if array.shape[2] == 4 and bool((array[..., 3] == _OPAQUE).all()):
            return np.ascontiguousarray(array[..., :3])
    raise Refused(
        "wrong_channels",
        f"{picture.name}: {picture.what}",
        "save RGB as three channels of 8 bits without transparency",
    )
