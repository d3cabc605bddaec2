"""What the shard stage does not load, and memory that it does not ask for twice."""

import subprocess
import sys
from pathlib import Path

import pytest
from picture_folder import make_folder

from pipeline.data.shards.dataset import read_info

SHARD = """
import sys
from pathlib import Path
from picture_folder import folder_config, run_shard
config = folder_config(Path({folder!r}), data={{"max_bad_fraction": 0.9}})
run_shard(config, Path({out!r}))
heavy = {{"pandas", "matplotlib", "scipy", "torch", "sklearn"}} & set(sys.modules)
print(*sorted(heavy))
"""

ROUNDS = """
import resource
import numpy as np
from pipeline.data.parallel import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        pictures = [np.ones(size, np.uint8) for size in (1_500_000, 700_000, 900_000, 300_000)]
        del pictures
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


def run_here(code: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sharding_a_folder_loads_nothing_that_takes_longer_than_the_pictures(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / "depth" / "frame_3.png").unlink()
    (folder / "rgb" / "frame_5.png").write_bytes(b"no picture")
    for modality in ("rgb", "depth", "seg"):
        for copy in (7, 8, 9):
            same = (folder / modality / "frame_1.png").read_bytes()
            (folder / modality / f"frame_{copy}.png").write_bytes(same)
    assert run_here(SHARD.format(folder=str(folder), out=str(tmp_path / "out"))) == ""
    assert (tmp_path / "out" / "pictures" / "contact_sheet.png").exists()
    assert read_info(tmp_path / "out").quarantine.keys() == {"duplicate_across_splits", "not_an_image"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other allocators are left as they are")
def test_memory_of_one_sample_is_kept_for_the_next() -> None:
    given_back, kept = map(int, run_here(ROUNDS).split())
    assert given_back > 1000
    assert kept < given_back / 20
