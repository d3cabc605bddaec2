"""How good reconstructions and translations are at equal samples, beside multivae 1.0.3, on rooms at 64 px.

    python benchmarks/quality.py --out DIR [--only SYSTEM ...] [--seeds 0 1 2] [--samples 100000]
                                 [--threads 1] [--json FILE] [--dry-run] [--overfit]

Everybody gets the same rooms in the same order, the same split, optimiser (AdamW), schedules (learning rate,
beta), average of weights and, but for `triptych-default...`, the same network (`model.network: plain`); every
direction is decoded from the mean of the posterior of what is given and scored by pipeline.metrics.fidelity.

- `multivae-mopoe`, `multivae-mvtcae`: their own defaults (MVTCAE: alpha .1, beta 2.5), RGB normal, depth
  Laplace, both with each of --scales, labels categorical. In the table the best scale counts, cell by cell.
- `triptych-...`: presets of this project, whose scales are learned; with `balanced` RGB counts three times.

DIR gets the rooms and one JSON file per training, `SYSTEM-seedN[-scaleS].json`. What is there is not trained
again, so the whole can be run in pieces, also side by side. Peers that are not installed are left out;
benchmarks/model_peers.txt says how to install them.
"""

import argparse
import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import model_peers
import torch
from quality_table import GIVEN, METRICS, summarise, table
from rooms_training import Setting, System, Trainee, keep, measure, read_results, rooms, triptych
from torch import nn

from pipeline.config.model import Model
from pipeline.config.objective import Objective, RgbLikelihood
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import DatasetInfo
from pipeline.metrics.fidelity import MIN_DEPTH_M, Fidelity, Prediction
from pipeline.models.networks import build_decoder, build_encoder
from pipeline.training.ema import update_average
from pipeline.training.schedule import learning_rate_share, warm_up

PLAIN = Model(network="plain", norm="none", width=32, latent=32)

PEERS = {"multivae-mopoe": "MoPoE", "multivae-mvtcae": "MVTCAE"}
BALANCED = Objective(rgb=RgbLikelihood(weight=3.0))
"""RGB counts three times.

A learned scale has to fit both RGB that was given and RGB that was not, whose colours nobody can know, so it
ends near the latter's errors and weighs RGB's gradient down by their ratio.
"""

PRESETS = {
    "triptych-mopoe": System(PLAIN),
    "triptych-mvtcae": System(PLAIN.model_copy(update={"fusion": "mvtcae"})),
    "triptych-balanced": System(PLAIN, BALANCED),
    "triptych-default": System(Model(latent=PLAIN.latent)),
    "triptych-default-balanced": System(Model(latent=PLAIN.latent), BALANCED),
}
"""This project's; those with the plain network get --norm."""


@dataclass(frozen=True)
class PeerSetting(Setting):
    """Also what the plain network looks like.

    Attributes:
        norm: Of the plain network: `none` or `group`.
    """

    norm: str


@dataclass(frozen=True)
class Training:
    """One of the trainings there are.

    Attributes:
        system: Name.
        seed: Of weights, order and noise.
        scale: Of a peer's densities; None where they are learned.
    """

    system: str
    seed: int
    scale: float | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.system}-seed{self.seed}" + ("" if self.scale is None else f"-scale{self.scale:g}")


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    systems = [*PEERS, *PRESETS]
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=systems, default=systems, metavar="SYSTEM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rooms", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=Train().batch)
    parser.add_argument("--learning-rate", type=float, default=Train().learning_rate)
    parser.add_argument("--norm", choices=["none", "group"], default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained")
    parser.add_argument("--overfit", action="store_true", help="learn eight rooms by heart instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = PeerSetting(
        arguments.samples, arguments.rooms, arguments.batch, arguments.learning_rate, arguments.norm
    )
    wanted = list(trainings(arguments.only, arguments.seeds, arguments.scales))
    if not model_peers.installed("multivae"):
        print(f"multivae is left out: {model_peers.INSTALL}")
        wanted = [training for training in wanted if training.system not in PEERS]
    if arguments.overfit:
        for training in wanted:
            overfit(training, setting, arguments.out)
        return
    read_results(arguments.out, setting)
    missing = [training for training in wanted if not (arguments.out / f"{training.name}.json").exists()]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} trainings are there", flush=True)
    for training in missing:
        if arguments.dry_run:
            print(f"to train: {training.name}")
            continue
        result = run(training, setting, arguments.out)
        print(f"{training.name}: {result['train_s']:.0f} s {result.get('failed', '')}", flush=True)
    results = read_results(arguments.out, setting)
    rows = summarise(result for result in results if "failed" not in result)
    print("\n".join(table(rows, PEERS)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"setting": asdict(setting), "rows": rows}, indent=1))


def trainings(systems: Iterable[str], seeds: Sequence[int], scales: Sequence[float]) -> Iterator[Training]:
    """Seed by seed, so that whoever stops early has whole seeds."""
    for seed in seeds:
        for system in systems:
            for scale in scales if system in PEERS else [None]:
                yield Training(system, seed, scale)


def run(training: Training, setting: PeerSetting, out: Path) -> dict[str, Any]:
    """Train, score on the test split, and write the result, also that a training failed."""
    dataset = ShardedDataset(rooms(out, setting.rooms))
    trainee = build(training, setting, dataset.info)
    found = measure(trainee, dataset, setting.train(), training.seed)
    dataset.close()
    result = {**asdict(setting), **asdict(training), **found}
    keep(out / f"{training.name}.json", result)
    return result


def overfit(training: Training, setting: PeerSetting, out: Path) -> None:
    """Print how well eight rooms are known after 150 updates: whether every modality is learned at all."""
    dataset = ShardedDataset(rooms(out, setting.rooms))
    batch = dataset.read("train", range(8))
    trainee = build(training, replace(setting, samples=150 * len(batch), batch=len(batch)), dataset.info)
    for update in range(150):
        trainee.update(batch, update * len(batch))
    fidelity = Fidelity(len(dataset.info.class_names))
    with torch.inference_mode():
        fidelity.update(trainee.predict(batch, GIVEN[0]), batch)
    found = ", ".join(f"{name} {value:.4f}" for name, value in fidelity.metrics().items() if name in METRICS)
    print(f"{training.name}: {found}", flush=True)


def build(training: Training, setting: PeerSetting, info: DatasetInfo) -> Trainee:
    """A new system."""
    if training.system in PEERS:
        assert training.scale is not None
        return peer(PEERS[training.system], training.scale, setting, info, training.seed)
    system = PRESETS[training.system]
    if system.model.network == "plain":
        system = replace(system, model=system.model.model_copy(update={"norm": setting.norm}))
    return triptych(system, setting, info, training.seed)


def peer(kind: str, scale: float, setting: PeerSetting, info: DatasetInfo, seed: int) -> Trainee:
    """The model and loss of multivae, with the optimiser, schedules and averaged weights of everybody."""
    torch.manual_seed(seed)
    train, objective = setting.train(), setting.objective()
    model = plain_multivae(kind, scale, setting.norm, info)
    average, beta = copy.deepcopy(model), model.model_config.beta
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=train.adam_betas, weight_decay=train.weight_decay, fused=True
    )

    def update(batch: Batch, samples_seen: int) -> None:
        seen = samples_seen + train.batch
        share = learning_rate_share(
            seen,
            samples=train.samples,
            warmup_samples=train.warmup_samples,
            final_share=train.final_learning_rate,
        )
        optimizer.param_groups[0]["lr"] = train.learning_rate * share
        model_peers.set_beta(model, beta * warm_up(seen, objective.beta_warmup_samples))
        loss = model_peers.multivae_loss(model, model_peers.inputs(batch, info)).loss
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"{kind} with scale {scale}: loss {loss} after {samples_seen} samples")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_average(
            average,
            model,
            samples_seen=seen,
            batch=train.batch,
            half_life_samples=train.ema_half_life_samples,
        )

    def predict_mean(batch: Batch, given: Sequence[str]) -> Prediction:
        decoded = model_peers.multivae_decoded(average, model_peers.inputs(batch, info), given)
        assert info.depth is not None
        return Prediction(
            (decoded["rgb"] + 0.5).clamp(0.0, 1.0),
            (decoded["depth"] * info.depth.std_m + info.depth.mean_m).clamp_min(MIN_DEPTH_M),
            decoded["seg"].argmax(dim=1),
        )

    return Trainee(update, predict_mean)


def plain_multivae(kind: str, scale: float, norm: str, info: DatasetInfo) -> nn.Module:
    """The model of multivae with the plain network."""
    config = PLAIN.model_copy(update={"norm": norm})

    def encoder(channels: int, out_features: int) -> nn.Module:
        return build_encoder(config, channels, info.image_size, out_features // 2, 0, statistics=2)

    def decoder(in_features: int, channels: int) -> nn.Module:
        return build_decoder(config, in_features, 0, channels, info.image_size)

    channels = {"rgb": 3, "depth": 1, "seg": len(info.class_names)}
    return model_peers.multivae_model(kind, channels, config.latent_size, scale, encoder, decoder)


if __name__ == "__main__":
    main()
