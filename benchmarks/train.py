"""How fast training is: samples per second and per CPU-second of one update on random 64 px scenes.

    python benchmarks/train.py [--only PATTERN ...] [--batch 64] [--threads 1] [--rounds 5] [--json FILE]

Every contestant has its turn, round after round, and the median round counts. Lines are `system: who`:

- `MoPoE, MVTCAE`: RGB, depth and labels; `VAE, AAE, VAE-GAN`: RGB alone. Everybody has the same plain
  network (`model.network: plain`), the same latents, none of them private, and the same densities.
- `VAE-GAN` has the same terms on both sides; `VAE-GAN, R1 + R2` is ours as it is by default.
- `triptych`: the whole update, as the train stage runs it, noise, masks, averaged weights and all, from a
  batch as the loader gives it; in fp32, and under bf16 autocast where the processor computes that natively.
- `multivae`, `pythae`: what their trainers do for an update, with their own defaults, from tensors that are
  ready (standardised, one-hot), which costs them nothing here.
- `default network: triptych` beside `bare loop`, the same networks in the shortest loop that trains them (no
  masks, no exact noise, no average of weights, no gradient norm), and that of plain networks with group norm.

Peers that are not installed are left out; benchmarks/model_peers.txt says how to install them.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import pairwise
from pathlib import Path

import model_peers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import AdversarialRegulariser, ImageAdversary, Objective
from pipeline.config.training import Train
from pipeline.data.batch import Batch, ModalityBatch
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.networks import build_decoder, build_encoder
from pipeline.orchestration.distributed import native_bf16
from pipeline.training.checkpoint import TrainingState
from pipeline.training.players import build_discriminators, make_discriminator_optimizer
from pipeline.training.update import Rules, make_optimizer, make_update

SIZE, CLASSES, LATENT = 64, 8, 32
PLAIN = Model(network="plain", norm="none", width=32, latent=LATENT, private={})
MODALITIES = ("rgb", "depth", "seg")
CHANNELS = {"rgb": 3, "depth": 1, "seg": CLASSES}
SCALE = 0.1


@dataclass(frozen=True)
class System:
    """One of ours, as near to the peer's as choices go.

    Attributes:
        modalities: What it is of.
        model: What differs from the plain model.
        objective: What is minimised.
        peer: What it is compared with.
    """

    modalities: tuple[str, ...]
    model: dict[str, str]
    objective: Objective
    peer: str


ALIKE = {"kind": "image", "fakes": "both", "start_samples": 0, "warmup_samples": 0, "ramp_samples": 0}
BARE = {"loss": "nonsaturating", "adaptive": False, "r1": 0.0, "r2": 0.0}
RGB = ("rgb",)
SYSTEMS = {
    "MoPoE": System(MODALITIES, {"fusion": "mopoe"}, Objective(), "MoPoE: multivae"),
    "MVTCAE": System(MODALITIES, {"fusion": "mvtcae"}, Objective(), "MVTCAE: multivae"),
    "VAE": System(RGB, {"fusion": "poe"}, Objective(), "VAE: pythae"),
    "AAE": System(
        RGB,
        {"fusion": "joint", "posterior": "deterministic"},
        Objective(regulariser=AdversarialRegulariser(kind="adversarial")),
        "AAE: pythae",
    ),
    "VAE-GAN": System(
        RGB, {"fusion": "poe"}, Objective(adversary=ImageAdversary(**ALIKE, **BARE)), "VAE-GAN: pythae"
    ),
    "VAE-GAN, R1 + R2": System(
        RGB, {"fusion": "poe"}, Objective(adversary=ImageAdversary(**ALIKE)), "VAE-GAN: pythae"
    ),
}
MULTIVAE = ("MoPoE", "MVTCAE")
PYTHAE = {"VAE": "VAE", "AAE": "Adversarial_AE", "VAE-GAN": "VAEGAN"}

Step = Callable[[], object]


def main() -> None:
    """Measure, print, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of lines, such as 'MoPoE: *'")
    parser.add_argument("--batch", type=int, default=Train().batch)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="in each turn")
    parser.add_argument("--bf16", choices=["auto", "always", "never"], default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bf16 = arguments.bf16 == "always" or (arguments.bf16 == "auto" and native_bf16(torch.device("cpu")))
    if not bf16:
        print("bf16 is left out: this processor does not compute it natively (--bf16 always)")
    makers = contestants(arguments.batch, bf16=bf16)
    steps = {name: make() for name, make in makers.items() if any(fnmatch(name, p) for p in arguments.only)}
    rates = measure(steps, arguments.batch, arguments.rounds, arguments.updates)
    print(f"batch {arguments.batch}, {arguments.threads} thread(s), torch {torch.__version__}")
    print(f"{'':32}{'samples/s':>10}{'per CPU-s':>11}{'x peer':>8}")
    for name, rate in rates.items():
        rate["times_peer"] = times_peer(name, rates)
        ratio = f"{rate['times_peer']:8.2f}" if rate["times_peer"] else ""
        print(f"{name:32}{rate['samples_per_s']:10.0f}{rate['samples_per_cpu_s']:11.0f}{ratio}")
    if arguments.json:
        setting = {"batch": arguments.batch, "threads": arguments.threads, "torch": torch.__version__}
        arguments.json.write_text(json.dumps(setting | rates, indent=1))


def contestants(batch_size: int, *, bf16: bool) -> dict[str, Callable[[], Step]]:
    """What can be measured here; models are built when they are called for."""
    batch, makers = random_batch(batch_size), {}
    precisions = {"fp32": False} | ({"bf16": True} if bf16 else {})
    has = {peer: model_peers.installed(peer) for peer in ("multivae", "pythae")}
    for peer in (name for name, there in has.items() if not there):
        print(f"{peer} is left out: {model_peers.INSTALL}")
    for system in SYSTEMS:
        if system in MULTIVAE and has["multivae"]:
            makers[f"{system}: multivae"] = partial(multivae_step, system, batch)
        if system in PYTHAE and has["pythae"]:
            makers[f"{system}: pythae"] = partial(pythae_step, PYTHAE[system], batch)
        for precision, low in precisions.items():
            makers[f"{system}: triptych {precision}"] = partial(system_step, system, batch, bf16=low)
    for precision, low in precisions.items():
        make = partial(triptych_step, Model(), Objective(), MODALITIES, batch, bf16=low)
        makers[f"default network: triptych {precision}"] = make
    makers["default network: bare loop"] = partial(bare_step, Model(), batch)
    grouped = Model(network="plain", norm="group")
    makers["plain, group norm: bare loop"] = partial(bare_step, grouped, batch)
    return makers


def times_peer(name: str, rates: dict[str, dict[str, float | None]]) -> float | None:
    """Samples per CPU-second relative to the peer's of the same system."""
    system, _, who = name.partition(": ")
    peer = rates.get(SYSTEMS[system].peer) if system in SYSTEMS and who.startswith("triptych") else None
    return (
        float(rates[name]["samples_per_cpu_s"] or 0) / float(peer["samples_per_cpu_s"] or 1) if peer else None
    )


def measure(
    steps: dict[str, Step], batch: int, rounds: int, updates: int
) -> dict[str, dict[str, float | None]]:
    """Median rates over rounds in which every loop has its turn."""
    for step in steps.values():
        step()
        step()
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


def system_step(system: str, batch: Batch, *, bf16: bool) -> Step:
    """Ours with the plain network."""
    chosen = SYSTEMS[system]
    config = PLAIN.model_copy(update=chosen.model)
    return triptych_step(config, chosen.objective, chosen.modalities, batch, bf16=bf16)


def triptych_step(
    config: Model, objective: Objective, modalities: tuple[str, ...], batch: Batch, *, bf16: bool
) -> Step:
    """The update of the train stage."""
    train = Train(batch=len(batch))
    model = build_autoencoder(config, objective, scene_info(modalities), seed=0)
    batch = Batch({name: batch.modalities[name] for name in modalities}, batch.key, batch.index)
    state = TrainingState(model, copy.deepcopy(model), make_optimizer(model, train))
    state.discriminators = build_discriminators(objective, model, seed=0)
    state.discriminator_optimizer = make_discriminator_optimizer(state.discriminators, objective, train)
    update = make_update(state, model, Rules(config, objective, train, seed=0, bf16=bf16))

    def step() -> None:
        update(batch)
        state.samples_seen += len(batch)

    return step


def multivae_step(kind: str, batch: Batch) -> Step:
    """Multivae's trainer."""
    model = model_peers.multivae_model(kind, CHANNELS, LATENT, SCALE, plain_encoder, plain_decoder)
    return model_peers.multivae_step(model, model_peers.inputs(batch, scene_info(MODALITIES)))


def pythae_step(kind: str, batch: Batch) -> Step:
    """Pythae's trainers."""
    image = batch.modalities["rgb"].value - 0.5
    networks = plain_encoder(3, 2 * LATENT), plain_decoder(LATENT, 3)
    return model_peers.pythae_step(kind, image, LATENT, *networks, plain_discriminator(3))


def plain_encoder(channels: int, out_features: int) -> nn.Module:
    """Four convolutions of stride 2 and a linear layer."""
    return build_encoder(PLAIN, channels, SIZE, out_features // 2, 0, statistics=2)


def plain_decoder(in_features: int, channels: int) -> nn.Module:
    """Its mirror image."""
    return build_decoder(PLAIN, in_features, 0, channels, SIZE)


def plain_discriminator(channels: int) -> list[nn.Module]:
    """Layers of the shape of `plain_encoder`, the last giving a probability."""
    widths = [channels, *(PLAIN.width * 2**stage for stage in range(4))]
    layers = [nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()) for a, b in pairwise(widths)]
    return [*layers, nn.Sequential(nn.Flatten(), nn.Linear(16 * widths[-1], 1), nn.Sigmoid())]


def bare_step(config: Model, batch: Batch) -> Step:
    """A product of experts with reparameterisation and fixed scales, and nothing else."""
    model = build_autoencoder(config, Objective(), scene_info(MODALITIES), seed=0)
    networks = [*model.encoders.parameters(), *model.decoders.parameters()]
    optimizer = torch.optim.Adam(networks, lr=1e-3, fused=True)
    labels = batch.modalities["seg"].value
    depth = batch.modalities["depth"].value - 3.0
    images = {
        "rgb": batch.modalities["rgb"].value,
        "depth": torch.cat([depth, torch.ones_like(depth)], dim=1),
        "seg": F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float(),
    }
    images = {name: image.contiguous(memory_format=torch.channels_last) for name, image in images.items()}

    def draw(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
        return mean + torch.randn_like(mean) * (0.5 * logvar).exp(), kl

    def step() -> None:
        moments = {name: model.encoders[name](images[name]).chunk(2, dim=1) for name in CHANNELS}
        precision = torch.stack([logvar[:, :LATENT].neg().exp() for _, logvar in moments.values()])
        mean = torch.stack([mean[:, :LATENT] for mean, _ in moments.values()])
        total = precision.sum(0) + 1
        shared, loss = draw((precision * mean).sum(0) / total, -total.log())
        for name, (mean, logvar) in moments.items():
            latent = shared
            if name in config.private:
                private, kl = draw(mean[:, LATENT:], logvar[:, LATENT:])
                latent, loss = torch.cat([shared, private], dim=1), loss + kl
            image = model.decoders[name](latent)
            if name == "seg":
                loss = loss + F.cross_entropy(image, labels, reduction="sum")
            else:
                loss = loss + (image - images[name][:, : CHANNELS[name]]).square().sum()
        optimizer.zero_grad()
        (loss / len(labels)).backward()
        optimizer.step()

    return step


def scene_info(modalities: tuple[str, ...]) -> DatasetInfo:
    """What `random_batch` is of."""
    return DatasetInfo(
        modalities=modalities,
        class_names=tuple(str(label) for label in range(CLASSES)) if "seg" in modalities else (),
        image_size=SIZE,
        counts={"train": 1},
        depth=DepthStatistics(3.0, 1.0, 1.0, 5.0, 1.0, 0.3) if "depth" in modalities else None,
    )


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
