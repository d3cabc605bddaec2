"""Which network gives the best scenes for the same processor time: patch, residual or plain.

    python benchmarks/networks.py DATASET [--cpu-s 600] [--networks patch residual plain:16:batch ...]
                                  [--seeds 0] [--batch 64] [--bf16] [--test N] [--json FILE]
                                  [--speed]

DATASET is a dataset directory, such as `triptych shard configs/rooms.yaml` writes. A network is named NAME,
NAME:WIDTH or NAME:WIDTH:NORM. First the update of each is timed (CPU-seconds of one thread, the others
interleaved); then each is trained, as the train stage does, on as many samples as fit into --cpu-s, with the
whole of its schedule, and its averaged weights are scored on the test split: decoded from the posterior mean
of all modalities and of each alone. --speed stops after the timing.

The table compares at equal time, not at equal samples: a network that sees twice as many samples in that
time is given them.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.training import Loading, Train
from pipeline.data.batch import Batch
from pipeline.data.loader.batches import sequential_batches, training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.metrics.fidelity import Fidelity, predict
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import posterior_mean
from pipeline.training.checkpoint import TrainingState
from pipeline.training.update import Rules, Update, make_optimizer, make_update

TIMED_ROUNDS, UPDATES_PER_ROUND = 5, 2
SHOWN = ("rgb_psnr_db", "depth_absrel", "seg_miou")


@dataclass(frozen=True)
class Setting:
    """What all networks have in common.

    Attributes:
        batch: Samples per update.
        bf16: Whether networks run in bfloat16.
        cpu_s: Of updates, for each training.
        test: Samples to score; None: the whole test split.
    """

    batch: int
    bf16: bool
    cpu_s: float
    test: int | None


@dataclass
class Learner:
    """A model in training.

    Attributes:
        state: Weights, their average, moments.
        update: Learn from a batch.
        train: How.
    """

    state: TrainingState
    update: Update
    train: Train


def main() -> None:
    """Time, train, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--cpu-s", type=float, default=600.0)
    parser.add_argument("--networks", nargs="+", default=["patch", "residual", "plain"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batch", type=int, default=Train().batch)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--test", type=int, default=None)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(arguments.batch, arguments.bf16, arguments.cpu_s, arguments.test)
    dataset = ShardedDataset(arguments.dataset)
    configs = {name: config_of(name) for name in arguments.networks}
    rates = speeds(configs, setting, dataset)
    for name, rate in rates.items():
        print(f"{name:16} {rate:6.0f} samples per CPU-second", flush=True)
    results = []
    for seed in () if arguments.speed else arguments.seeds:
        for name, config in configs.items():
            found = trained(config, setting, dataset, rates[name], seed)
            results.append({"network": name, "seed": seed, **found})
            print(line(results[-1]), flush=True)
    if arguments.json:
        whole = {"setting": asdict(setting), "samples_per_cpu_s": rates, "results": results}
        arguments.json.write_text(json.dumps(whole, indent=1))


def config_of(name: str) -> Model:
    """NAME, NAME:WIDTH or NAME:WIDTH:NORM; all else is the default."""
    network, *rest = name.split(":")
    return Model.model_validate({"network": network} | dict(zip(("width", "norm"), rest, strict=False)))


def learner(config: Model, setting: Setting, dataset: ShardedDataset, samples: int, seed: int) -> Learner:
    """A new model, whose schedules end at `samples`."""
    train = Train(
        samples=samples,
        batch=setting.batch,
        warmup_samples=min(Train().warmup_samples, samples // 8),
        loading=Loading(cache_gib=2.0),
    )
    objective = Objective(beta_warmup_samples=train.warmup_samples)
    model = build_autoencoder(config, objective, dataset.info, seed)
    state = TrainingState(model, copy.deepcopy(model), make_optimizer(model, train))
    return Learner(
        state, make_update(state, model, Rules(config, objective, train, seed, bf16=setting.bf16)), train
    )


def speeds(configs: dict[str, Model], setting: Setting, dataset: ShardedDataset) -> dict[str, float]:
    """Samples per CPU-second of updates: medians over rounds in which every network has its turn."""
    batch = dataset.read("train", [row % dataset.length("train") for row in range(setting.batch)])
    learners = {name: learner(config, setting, dataset, 10_000, 0) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(1 + TIMED_ROUNDS):
        for name, one in learners.items():
            times[name].append(sum(timed(one, batch) for _ in range(UPDATES_PER_ROUND)))
    samples = UPDATES_PER_ROUND * setting.batch
    return {name: samples / statistics.median(spent[1:]) for name, spent in times.items()}


def timed(one: Learner, batch: Batch) -> float:
    """Seconds this thread, which does all of it, spends on an update."""
    start = time.thread_time()
    one.update(batch)
    one.state.samples_seen += len(batch)
    return time.thread_time() - start


def trained(
    config: Model, setting: Setting, dataset: ShardedDataset, rate: float, seed: int
) -> dict[str, Any]:
    """Train for the time allowed at a known rate, then score."""
    updates = max(8, round(rate * setting.cpu_s / setting.batch))
    one = learner(config, setting, dataset, updates * setting.batch, seed)
    batches = training_batches(
        dataset,
        "train",
        seed=seed,
        global_batch=setting.batch,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        loading=one.train.loading,
    )
    with closing(batches):
        spent = sum(timed(one, next(batches).unpack()) for _ in range(updates))
    return {
        "samples": one.train.samples,
        "cpu_s": spent,
        "parameters": sum(p.numel() for p in one.state.model.parameters()),
        "metrics": score(one, dataset, setting.test),
    }


def score(one: Learner, dataset: ShardedDataset, test: int | None) -> dict[str, dict[str, float]]:
    """Of the averaged weights, on the test split: given everything, and given each modality."""
    model = one.state.average.eval()
    given: list[Sequence[str]] = [model.modalities, *((name,) for name in model.modalities)]
    fidelity = {"+".join(names): Fidelity(len(dataset.info.class_names)) for names in given}
    with torch.inference_mode():
        for batch in sequential_batches(dataset, "test", 64, test):
            for names in given:
                _, shared, private = posterior_mean(model, batch, names)
                fidelity["+".join(names)].update(predict(model, model.decode(shared, private)), batch)
    return {names: found.metrics() for names, found in fidelity.items()}


def line(result: dict[str, Any]) -> str:
    """One training."""
    parts = [f"{result['network']:16} seed {result['seed']} {result['samples']:>8} samples"]
    parts += [f"{result['cpu_s']:6.0f} CPU-s {result['parameters']:>9} parameters"]
    for given, metrics in result["metrics"].items():
        parts.append(f"{given}: " + " ".join(f"{metrics.get(name, float('nan')):.4g}" for name in SHOWN))
    return " | ".join(parts)


if __name__ == "__main__":
    main()
