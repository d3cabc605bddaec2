"""Training on rooms at equal samples, outside the pipeline: what benchmarks/quality.py and collapse.py share.

Everybody gets the same rooms in the same order, the same split, optimiser, schedules and average of weights.
Every direction is decoded from the mean of the posterior of what is given.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_table import GIVEN

from pipeline.config.data import Data
from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.sources import RoomsSource
from pipeline.config.training import Loading, Train
from pipeline.data.batch import Batch
from pipeline.data.loader.batches import sequential_batches, training_batches
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import DatasetInfo, Sample
from pipeline.data.scenes.samples import RoomSamples
from pipeline.data.shards.dataset import write_dataset
from pipeline.data.sources.scenes import open_rooms
from pipeline.metrics.fidelity import Fidelity, Prediction, predict
from pipeline.models.autoencoder import SharedLatentAutoencoder, build_autoencoder
from pipeline.models.pretrained import posterior_mean
from pipeline.training.update import Rules, make_update, start

Metrics = dict[str, dict[str, float]]
"""What was given to metric to value."""


@dataclass(frozen=True)
class Setting:
    """What all trainings have in common; it is written into every result, and results must agree in it.

    Attributes:
        samples: Each training sees.
        rooms: Rendered, tenth of them for testing.
        batch: Samples per update.
        learning_rate: Peak.
    """

    samples: int
    rooms: int
    batch: int
    learning_rate: float

    def train(self) -> Train:
        """The optimisation of everybody."""
        return Train(
            samples=self.samples,
            batch=self.batch,
            learning_rate=self.learning_rate,
            warmup_samples=min(Train().warmup_samples, self.samples // 8),
            precision="fp32",
            loading=Loading(cache_gib=2.0),
        )

    def objective(self, objective: Objective | None = None) -> Objective:
        """With everybody's schedule of beta."""
        warm_up_samples = self.train().warmup_samples
        return (objective or Objective()).model_copy(update={"beta_warmup_samples": warm_up_samples})


@dataclass(frozen=True)
class System:
    """One of this project's, as a config would say it.

    Attributes:
        model: Networks and fusion.
        objective: Without the schedule, which is everybody's.
        absent: Share of the training samples that lack a modality, each drawn on its own.
    """

    model: Model
    objective: Objective = field(default_factory=Objective)
    absent: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainee:
    """A system that learns.

    Attributes:
        update: Learn from a batch; called with how many samples were seen before.
        predict: A batch's scenes from the mean of the posterior of what is given.
    """

    update: Callable[[Batch, int], None]
    predict: Callable[[Batch, Sequence[str]], Prediction]


def triptych(
    system: System,
    setting: Setting,
    info: DatasetInfo,
    seed: int,
    prepare: Callable[[SharedLatentAutoencoder], None] = lambda model: None,
) -> Trainee:
    """This project's own update and averaged weights.

    Args:
        system: Which.
        setting: Everybody's.
        info: Of the rooms.
        seed: Of weights and noise.
        prepare: Called with the model before it is trained, and not with its average.
    """
    train, objective = setting.train(), setting.objective(system.objective)
    model = build_autoencoder(system.model, objective, info, seed)
    state = start(model, objective, train, seed)
    prepare(model)
    learn = make_update(state, model, Rules(system.model, objective, train, seed))
    average = state.average

    def update(batch: Batch, samples_seen: int) -> None:
        state.samples_seen = samples_seen
        learn(batch)

    def predict_mean(batch: Batch, given: Sequence[str]) -> Prediction:
        _, shared, private = posterior_mean(average, batch, given)
        return predict(average, average.decode(shared, private))

    return Trainee(update, predict_mean)


def fit(
    trainee: Trainee,
    dataset: ShardedDataset,
    train: Train,
    seed: int,
    watch: Callable[[int], None] = lambda samples_seen: None,
) -> None:
    """The same samples in the same order for everybody with this seed; `watch` comes after each update."""
    batches = training_batches(
        dataset,
        "train",
        seed=seed,
        global_batch=train.batch,
        samples_seen=0,
        world_rank=0,
        world_size=1,
        loading=train.loading,
    )
    with closing(batches):
        for samples_seen in range(0, train.samples, train.batch):
            trainee.update(next(batches).unpack(), samples_seen)
            watch(samples_seen + train.batch)


def score(trainee: Trainee, dataset: ShardedDataset, limit: int | None = None) -> Metrics:
    """Metrics of every direction on the test split, or its first so many samples."""
    fidelity = {given: Fidelity(len(dataset.info.class_names)) for given in GIVEN}
    count = min(limit or sys.maxsize, dataset.length("test"))
    with torch.inference_mode():
        for batch in sequential_batches(dataset, "test", 64, count):
            for given, one in fidelity.items():
                one.update(trainee.predict(batch, given), batch)
    return {"+".join(given): one.metrics() for given, one in fidelity.items()}


def measure(
    trainee: Trainee,
    dataset: ShardedDataset,
    train: Train,
    seed: int,
    watch: Callable[[int], None] = lambda samples_seen: None,
) -> dict[str, Any]:
    """Train and score: `metrics`, or why it `failed`, and seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {"torch": torch.__version__}
    try:
        fit(trainee, dataset, train, seed, watch)
        result["metrics"] = score(trainee, dataset)
    except FloatingPointError as error:
        result["failed"] = str(error)
    return result | {"train_s": time.perf_counter() - wall, "train_cpu_s": time.process_time() - cpu}


def rooms(out: Path, count: int, absent: dict[str, float] | None = None) -> Path:
    """The dataset, rendered if it is not there yet; the test split is always whole."""
    absent = absent or {}
    missing = "".join(f"-{name}{share:g}" for name, share in sorted(absent.items()))
    directory = out / f"rooms-{count}{missing}"
    if directory.exists():
        return directory
    print(f"rendering {count} rooms{' without ' + missing[1:] if missing else ''}", flush=True)
    source = RoomsSource(kind="rooms", count=count)
    catalogue = open_rooms(Data(source=source, image_size=64, test_fraction=0.1), source)
    load = RoomSamples(source.seed, source.nuisance, 64, source.antialias, source.sensor_noise)
    unfinished = out / f"{directory.name}.{os.getpid()}"
    write_dataset(
        unfinished,
        (
            (split, _without(load(entry), entry, absent if split == "train" else {}))
            for split, entry in zip(catalogue.splits, catalogue.entries, strict=True)
        ),
        class_names=catalogue.class_names,
        image_size=64,
        factors=catalogue.factors,
        depth_scale_m=catalogue.depth_scale_m,
    )
    unfinished.rename(directory)
    return directory


def _without(sample: Sample, number: int, absent: dict[str, float]) -> Sample:
    """The sample without the modalities that a generator of its number leaves out."""
    draws = np.random.default_rng(number).random(len(absent))
    lost = [name for (name, share), draw in zip(sorted(absent.items()), draws, strict=True) if draw < share]
    return replace(sample, **dict.fromkeys(lost))


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(result, indent=1))
    unfinished.rename(path)


def read_results(out: Path, setting: Setting) -> list[dict[str, Any]]:
    """All there are; it ends the program if they were made with another setting."""
    results = []
    for path in sorted(out.glob("*-seed*.json")):
        result = json.loads(path.read_text())
        for name, value in asdict(setting).items():
            if result[name] != value:
                sys.exit(f"{path}: made with {name} {result[name]}, not {value}; name another --out")
        results.append(result)
    return results
