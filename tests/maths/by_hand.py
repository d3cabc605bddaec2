"""Small models and batches made by hand."""

import torch

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.models.autoencoder import SharedLatentAutoencoder, build_autoencoder
from pipeline.models.variables import Noise

CLASSES = 4
SIZE = 32
INFO = DatasetInfo(
    modalities=("rgb", "depth", "seg"),
    class_names=tuple(f"class{index}" for index in range(CLASSES)),
    image_size=SIZE,
    counts={"train": 8},
    depth=DepthStatistics(3.0, 0.5, 1.0, 5.0, 1.1, 0.2),
)


def make_model(
    config: Model | None = None, objective: Objective | None = None, seed: int = 0
) -> SharedLatentAutoencoder:
    config = config or Model(latent=6, private={"rgb": 3}, width=8)
    return build_autoencoder(config, objective or Objective(), INFO, seed)


def make_batch(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    present, valid = torch.ones(rows, dtype=torch.bool), torch.ones(rows, SIZE, SIZE, dtype=torch.bool)
    return Batch(
        {
            "rgb": ModalityBatch(torch.rand(rows, 3, SIZE, SIZE, generator=generator), present, valid),
            "depth": ModalityBatch(
                1 + 4 * torch.rand(rows, 1, SIZE, SIZE, generator=generator), present, valid
            ),
            "seg": ModalityBatch(
                torch.randint(CLASSES, (rows, SIZE, SIZE), generator=generator), present, valid
            ),
        },
        key=tuple(str(row) for row in range(rows)),
        index=torch.arange(rows),
    )


def without(batch: Batch, modality: str, rows: list[int], filler: float) -> Batch:
    """The batch with a modality absent from some rows, which hold `filler` in its place."""
    old = batch.modalities[modality]
    value, present, valid = old.value.clone(), old.present.clone(), old.valid.clone()
    value[rows], present[rows], valid[rows] = filler, False, False
    return Batch({**batch.modalities, modality: ModalityBatch(value, present, valid)}, batch.key, batch.index)


def make_noise(model: SharedLatentAutoencoder, rows: int, seed: int = 1) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    private = {name: torch.randn(rows, width, generator=generator) for name, width in model.private.items()}
    return Noise(torch.randn(rows, model.latent, generator=generator), private)
