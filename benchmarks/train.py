"""How fast training is: samples per second and per CPU-second of one update on random 64 px scenes.

    python benchmarks/train.py [--batch 64] [--threads 1] [--rounds 5] [--json FILE]

Three loops are timed in turn, round after round, and the median round counts:

- `triptych`: the whole update, as the train stage runs it.
- `bare loop`: the same networks in the shortest loop that trains them (no masks, no exact noise, no
  average of weights, no gradient norm), which shows what those cost.
- `plain network`: that loop with four stride-2 4x4 convolutions each way, widths w, 2w, 4w, 8w, group
  norm and ReLU, the textbook choice.
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.schema import Model, Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.networks import Decoder, Encoder
from pipeline.training.checkpoint import TrainingState
from pipeline.training.update import Rules, make_optimizer, make_update

SIZE, CLASSES = 64, 8
CHANNELS = {"rgb": 3, "depth": 1, "seg": CLASSES}
INFO = DatasetInfo(
    modalities=("rgb", "depth", "seg"),
    class_names=tuple(str(label) for label in range(CLASSES)),
    image_size=SIZE,
    counts={"train": 1},
    depth=DepthStatistics(3.0, 1.0, 1.0, 5.0, 1.0, 0.3),
)

Step = Callable[[], object]


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=Train().batch)
    parser.add_argument("--width", type=int, default=Model().width)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, config = random_batch(arguments.batch), Model(width=arguments.width)
    plain = {name: (plain_encoder, plain_decoder) for name in CHANNELS}
    ours = {name: (Encoder, Decoder) for name in CHANNELS}
    steps: dict[str, Step] = {
        "triptych": triptych_step(config, batch),
        "bare loop": bare_step(config, batch, ours),
        "plain network": bare_step(config, batch, plain),
    }
    rates = measure(steps, arguments.batch, arguments.rounds)
    setting = f"batch {arguments.batch}, width {arguments.width}, {arguments.threads} thread(s)"
    print(f"{setting}, torch {torch.__version__}")
    print(f"{'':14}{'samples/s':>12}{'samples/CPU-s':>16}")
    for name, rate in rates.items():
        print(f"{name:14}{rate['samples_per_s']:12.0f}{rate['samples_per_cpu_s']:16.0f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"batch": arguments.batch, "threads": arguments.threads, **rates}, indent=1)
        )


def measure(steps: dict[str, Step], batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median rates over rounds in which every loop has its turn."""
    for step in steps.values():
        step()
        step()
    updates = max(1, 256 // batch)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(updates):
                step()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    samples = updates * batch
    return {
        name: {
            "samples_per_s": samples / statistics.median(wall for wall, _ in rounds_of),
            "samples_per_cpu_s": samples / statistics.median(cpu for _, cpu in rounds_of),
        }
        for name, rounds_of in times.items()
    }


def triptych_step(config: Model, batch: Batch) -> Step:
    """The update of the train stage."""
    model, train = build_autoencoder(config, Objective(), INFO, seed=0), Train(batch=len(batch))
    state = TrainingState(model, copy.deepcopy(model), make_optimizer(model, train))
    update = make_update(state, model, Rules(config, Objective(), train, seed=0))

    def step() -> None:
        update(batch)
        state.samples_seen += len(batch)

    return step


def bare_step(config: Model, batch: Batch, networks: dict[str, tuple[Callable[..., nn.Module], ...]]) -> Step:
    """A product of experts with reparameterisation and fixed scales, and nothing else."""
    features = {name: config.latent + config.private.get(name, 0) for name in CHANNELS}
    encoders, decoders = nn.ModuleDict(), nn.ModuleDict()
    for name, (encoder, decoder) in networks.items():
        encoders[name] = encoder(CHANNELS[name], SIZE, 2 * features[name], config.width)
        decoders[name] = decoder(features[name], CHANNELS[name], SIZE, config.width)
    model = nn.ModuleList([encoders, decoders]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    labels = batch.modalities["seg"].value
    images = {
        "rgb": batch.modalities["rgb"].value,
        "depth": batch.modalities["depth"].value - 3.0,
        "seg": F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float(),
    }
    images = {name: image.contiguous(memory_format=torch.channels_last) for name, image in images.items()}

    def draw(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
        return mean + torch.randn_like(mean) * (0.5 * logvar).exp(), kl

    def step() -> None:
        moments = {name: encoders[name](images[name]).chunk(2, dim=1) for name in CHANNELS}
        precision = torch.stack([logvar[:, : config.latent].neg().exp() for _, logvar in moments.values()])
        mean = torch.stack([mean[:, : config.latent] for mean, _ in moments.values()])
        total = precision.sum(0) + 1
        shared, loss = draw((precision * mean).sum(0) / total, -total.log())
        for name, (mean, logvar) in moments.items():
            latent = shared
            if name in config.private:
                private, kl = draw(mean[:, config.latent :], logvar[:, config.latent :])
                latent, loss = torch.cat([shared, private], dim=1), loss + kl
            image = decoders[name](latent)
            if name == "seg":
                loss = loss + F.cross_entropy(image, labels, reduction="sum")
            else:
                loss = loss + (image - images[name]).square().sum()
        optimizer.zero_grad()
        (loss / len(labels)).backward()
        optimizer.step()

    return step


def plain_encoder(channels: int, image_size: int, out_features: int, width: int) -> nn.Module:
    """Four halvings at 64 px, then one linear layer."""
    layers: list[nn.Module] = []
    stages = round(math.log2(image_size // 4))
    for stage in range(stages):
        after = width * 2**stage
        layers += [nn.Conv2d(channels, after, 4, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        channels = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, out_features))


def plain_decoder(in_features: int, channels: int, image_size: int, width: int) -> nn.Module:
    """The mirror image of `plain_encoder`."""
    stages = round(math.log2(image_size // 4))
    before = width * 2 ** (stages - 1)
    layers: list[nn.Module] = [nn.Linear(in_features, 16 * before), nn.Unflatten(1, (before, 4, 4))]
    for _ in range(stages - 1):
        layers += [nn.ConvTranspose2d(before, before // 2, 4, 2, 1), nn.GroupNorm(8, before // 2), nn.ReLU()]
        before //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(before, channels, 4, 2, 1))


def random_batch(rows: int) -> Batch:
    """Scenes of noise, everything present and valid."""
    generator = torch.Generator().manual_seed(0)
    present, valid = torch.ones(rows, dtype=torch.bool), torch.ones(rows, SIZE, SIZE, dtype=torch.bool)
    rgb = torch.rand(rows, 3, SIZE, SIZE, generator=generator)
    depth = 1 + 4 * torch.rand(rows, 1, SIZE, SIZE, generator=generator)
    seg = torch.randint(CLASSES, (rows, SIZE, SIZE), generator=generator)
    modalities = {
        name: ModalityBatch(value, present, valid)
        for name, value in (("rgb", rgb), ("depth", depth), ("seg", seg))
    }
    return Batch(modalities, tuple(str(row) for row in range(rows)), torch.arange(rows))


if __name__ == "__main__":
    main()
