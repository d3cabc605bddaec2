"""Members that are compressed by themselves (`.zst`), with a bound on what they may become."""

import pyarrow as pa

from pipeline.data.pictures.files import MOST_BYTES
from pipeline.data.refusal import Refused

_MAGIC = b"\x28\xb5\x2f\xfd"


def unpacked(content: bytes, name: str) -> tuple[bytes, str]:
    """Content and name without Zstandard compression; as they are if they have none.

    Raises:
        Refused: If it is damaged, or would become larger than any picture may be.
    """
    if not name.endswith(".zst"):
        return content, name
    if not content.startswith(_MAGIC):
        raise Refused("unreadable", f"{name}: not compressed with Zstandard", "name it for what it is")
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            plain = bytes(stream.read(MOST_BYTES + 1))
    except OSError as error:
        raise Refused("truncated", f"{name}: {error}", "compress the file again") from None
    if len(plain) > MOST_BYTES:
        raise Refused("too_large", f"{name}: more than {MOST_BYTES:,} bytes", "make the picture smaller")
    return plain, name.removesuffix(".zst")
