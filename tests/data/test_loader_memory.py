"""A loader needs little memory per sample of the dataset, however many there are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import write

SAMPLES, PER_SHARD = 1_000_000, 1000

MEASURE = """
import sys
from pathlib import Path
import psutil
import pyarrow.parquet
from pipeline.data.loader.dataset import ShardedDataset

def resident():
    return psutil.Process().memory_info().rss

small = ShardedDataset(Path(sys.argv[1]))
small.order("train", 0).rows(0, 64)
before = resident()
dataset = ShardedDataset(Path(sys.argv[2]))
order = dataset.order("train", 0)
for position in (0, 499_999, 999_900, 1_000_000, 5_000_000):
    rows = order.rows(position, 256)
    dataset._splits["train"].places(rows)
print(dataset.length("train"), resident() - before)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A small dataset, and beside it the description and index of a large one with sparse tars."""
    write(tmp_path / "small")
    description = json.loads((tmp_path / "small" / "dataset.json").read_text())
    schema = pq.read_schema(tmp_path / "small" / "index.parquet")
    needed = ("split", "shard", "key", "_offset", "_size")
    schema = pa.schema([one for one in schema if one.name.endswith(needed) or "factor" in one.name])
    step, large = 35_328, tmp_path / "large"
    large.mkdir()
    names = [f"train-{number:06d}.tar" for number in range(SAMPLES // PER_SHARD)]
    shard = {"samples": PER_SHARD, "bytes": PER_SHARD * step + 10_240, "sha256": "0" * 64}
    description |= {"counts": {"train": SAMPLES}, "shards": dict.fromkeys(names, shard)}
    (large / "dataset.json").write_text(json.dumps(description))
    with pq.ParquetWriter(large / "index.parquet", schema, compression="zstd") as file:
        for number, name in enumerate(names):
            with (large / name).open("wb") as tar:
                tar.truncate(shard["bytes"])
            file.write_table(_rows(schema, number, name, step))
    return tmp_path


def _rows(schema: pa.Schema, number: int, name: str, step: int) -> pa.Table:
    start = np.arange(PER_SHARD, dtype=np.int64) * step
    columns = {}
    for field in schema:
        if field.name == "split":
            values = pa.array(["train"] * PER_SHARD)
        elif field.name == "shard":
            values = pa.array([name] * PER_SHARD)
        elif field.name == "key":
            values = pa.array([f"k{number * PER_SHARD + place:09d}" for place in range(PER_SHARD)])
        elif field.name.endswith("_offset"):
            place = ("rgb", "depth", "seg", "json").index(field.name.removesuffix("_offset"))
            values = pa.array(start + 512 + place * (4608 + 512))
        elif field.name.endswith("_size"):
            values = pa.array(np.full(PER_SHARD, 4224))
        else:
            values = pa.array(np.zeros(PER_SHARD, np.int64))
        columns[field.name] = values.cast(field.type)
    return pa.table(columns, schema=schema)


@pytest.mark.slow
def test_a_million_samples_cost_less_than_fifty_bytes_each(fake: Path) -> None:
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(fake / "small"), str(fake / "large")],
        capture_output=True,
        text=True,
        check=True,
    )
    count, grown = map(int, measured.stdout.split())
    assert count == SAMPLES
    assert grown / count < 50, f"{grown / count:.1f} bytes per sample"
    print(f"{grown / count:.1f} bytes per sample")
