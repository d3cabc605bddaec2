"""What tells samples apart, or alike: a hash of all their pixels, and one of what their RGB looks like."""

import hashlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.data.modality import MODALITIES, Sample

LOOK_BYTES = 16
"""Size of a look: 128 bits."""

_SIDE = 8


def content_of(sample: Sample) -> int:
    """The first 64 bits of a SHA-256 over every array of a sample: equal pixels, equal number."""
    digest = hashlib.sha256()
    for modality in MODALITIES:
        array = getattr(sample, modality)
        if array is not None:
            digest.update(f"{modality}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest()[:8], "little")


def look_of(rgb: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A difference hash: pictures that look alike differ in few of its 128 bits.

    The picture is made grey (ITU-R 601) and averaged into 9 x 9 fields. Of the upper left 8 x 8, row by row,
    the first 64 bits say whether a field is darker than its right neighbour, the other 64 whether it is
    darker than the one below; the first bit is the highest of the first byte. All bits are 0 where there is
    nothing to see; such a picture is not alike any other.

    Source: N. Krawetz 2013, "Kind of like that", the dHash; here in both directions.
    """
    grey = np.asarray(Image.fromarray(rgb).convert("L").resize((_SIDE + 1, _SIDE + 1), Image.Resampling.BOX))
    field = grey[:_SIDE, :_SIDE]
    bits = np.stack([field < grey[:_SIDE, 1:], field < grey[1:, :_SIDE]])
    return np.packbits(bits).tobytes()


def key_hash(key: str) -> int:
    """64 bits that tell a sample's key from others without keeping the keys."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
