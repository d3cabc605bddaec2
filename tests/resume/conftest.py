from pathlib import Path

import numpy as np
import pytest

from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes and five for validation; some lack a modality, some pixels have no value."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(25):
        depth = rng.uniform(1, 5, (32, 32)).astype(np.float32)
        depth[:3] = np.nan
        seg = rng.integers(0, 4, (32, 32), dtype=np.uint8)
        seg[-2:] = 255
        samples.append(
            Sample(
                key=f"s{index:02d}",
                rgb=None if index % 5 == 1 else rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
                depth=None if index % 5 == 2 else depth,
                seg=None if index % 7 == 3 else seg,
            )
        )
    directory = tmp_path_factory.mktemp("dataset") / "data"
    write_dataset(
        directory,
        (("train" if index < 20 else "test", sample) for index, sample in enumerate(samples)),
        class_names=("a", "b", "c", "d"),
        image_size=32,
    )
    return directory
