"""A model trained on squares for a moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from squares import COUNTS, context, write_scenes

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Train
from stages import train
from stages.train import TrainInputs


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What later stages read: `dataset` and `train`."""
    root = tmp_path_factory.mktemp("squares")
    inputs = {"dataset": write_scenes(root / "dataset", COUNTS)}
    settings = Train(
        samples=3200, batch=16, learning_rate=3e-3, warmup_samples=320, precision="fp32", device="cpu"
    )
    model = Model(latent=8, private={"rgb": 4}, width=8)
    train.run(TrainInputs(model, Objective(), settings), context(root / "train", inputs))
    return inputs | {"train": root / "train"}
