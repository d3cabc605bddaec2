"""Dataset directories: tars in the WebDataset format, an index over them, and what they hold."""

from pipeline.data.shards.dataset import (
    INDEX,
    INFO,
    QUARANTINE,
    dataset_digest,
    decode_sample,
    read_info,
    write_dataset,
)

__all__ = [
    "INDEX",
    "INFO",
    "QUARANTINE",
    "dataset_digest",
    "decode_sample",
    "read_info",
    "write_dataset",
]
