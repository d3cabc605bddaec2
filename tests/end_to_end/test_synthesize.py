"""A synthetic dataset is a dataset: our reader, WebDataset and training all take it."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import webdataset
from squares import CLASS_NAMES, SIDE, context, digests

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.schema import Synthesize
from pipeline.config.training import Train
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.shards.dataset import decode_sample, read_info
from pipeline.orchestration.stage import Manifest
from stages import synthesize, train
from stages.train import TrainInputs

CONFIG = Synthesize(count=70, seed=5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic") / "synthesize"


@pytest.fixture(scope="module")
def manifest(trained: dict[str, Path], directory: Path) -> Manifest:
    return synthesize.run(CONFIG, context(directory, trained))


def test_the_reader_finds_training_and_test_scenes_like_those_trained_on(
    trained: dict[str, Path], directory: Path, manifest: Manifest
) -> None:
    dataset, source = ShardedDataset(directory), read_info(trained["dataset"])
    assert dataset.info.counts == {"train": 60, "test": 10}
    assert (dataset.info.class_names, dataset.info.image_size) == (CLASS_NAMES, SIDE)
    assert dataset.info.factors == ()
    batch = dataset.read("train", np.arange(60))
    assert tuple(batch.modalities) == source.modalities
    assert all(
        bool(modality.present.all() and modality.valid.all()) for modality in batch.modalities.values()
    )
    depth = batch.modalities["depth"].value
    assert source.depth is not None
    assert source.depth.min_m <= float(depth.min()) < float(depth.max()) <= source.depth.max_m
    assert 0.05 < float(batch.modalities["rgb"].value.std(0).mean())
    assert float((batch.modalities["seg"].value == CLASS_NAMES.index("square")).float().mean()) > 0.05
    assert manifest.metrics["samples/train"] == 60


def test_frequencies_are_close_to_those_trained_on(manifest: Manifest) -> None:
    assert manifest.metrics["prior/class_frequency_tv"] < 0.1
    assert abs(manifest.metrics["prior/depth_mean_difference_m"]) < 0.2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the tar open
def test_webdataset_reads_it(directory: Path, manifest: Manifest) -> None:
    tar = str(directory / "train-000000.tar")
    plain = list(webdataset.WebDataset(tar, shardshuffle=False).map(decode_sample))
    assert len(plain) == 60
    ours = ShardedDataset(directory).read("train", [0])
    assert np.array_equal(plain[0]["depth"], ours.modalities["depth"].value[0, 0].numpy())
    assert np.array_equal(plain[0]["seg"], ours.modalities["seg"].value[0].numpy())
    assert plain[0]["__key__"] == ours.key[0] == "synthetic-000000"


def test_training_runs_on_it(directory: Path, manifest: Manifest, tmp_path: Path) -> None:
    settings = Train(samples=8, batch=8, warmup_samples=8, precision="fp32", device="cpu")
    inputs = TrainInputs(Model(latent=4, private={"rgb": 2}, width=8), Objective(), settings)
    result = train.run(inputs, context(tmp_path / "train", {"dataset": directory}))
    assert np.isfinite(result.metrics["loss"])
    assert (tmp_path / "train" / "model.safetensors").is_file()


def test_the_source_says_synthetic_and_which_model(
    trained: dict[str, Path], directory: Path, manifest: Manifest
) -> None:
    source = json.loads((directory / "dataset.json").read_text())["source"]
    weights = (trained["train"] / "model.safetensors").read_bytes()
    assert source["kind"] == "synthetic"
    assert source["model_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (source["prior"], source["seed"]) == ("aggregate", 5)


def test_the_same_config_writes_the_same_bytes_and_another_seed_others(
    trained: dict[str, Path], directory: Path, manifest: Manifest, tmp_path: Path
) -> None:
    synthesize.run(CONFIG, context(tmp_path / "again", trained))
    assert digests(tmp_path / "again") == digests(directory)
    synthesize.run(CONFIG.model_copy(update={"seed": 6}), context(tmp_path / "other", trained))
    other = ShardedDataset(tmp_path / "other").read("train", [0]).modalities["rgb"].value
    assert not np.array_equal(other, ShardedDataset(directory).read("train", [0]).modalities["rgb"].value)


def test_the_aggregate_prior_is_closer_to_the_data_than_the_normal_one(
    trained: dict[str, Path], manifest: Manifest, tmp_path: Path
) -> None:
    assumed = Synthesize(count=70, seed=5, prior="training")
    metrics = synthesize.run(assumed, context(tmp_path / "training", trained)).metrics
    assert metrics["prior/class_frequency_tv"] > manifest.metrics["prior/class_frequency_tv"]


@pytest.mark.parametrize("count", [2, 3, 11])
def test_few_scenes_still_have_both_splits(trained: dict[str, Path], tmp_path: Path, count: int) -> None:
    synthesize.run(Synthesize(count=count), context(tmp_path / "few", trained))
    counts = ShardedDataset(tmp_path / "few").info.counts
    assert counts["train"] + counts["test"] == count
    assert counts["test"] >= 1


@pytest.mark.parametrize("prior", ["gmm", "flow"])
def test_a_fitted_mixture_or_flow_draws_scenes_like_those_trained_on(
    trained: dict[str, Path], tmp_path: Path, prior: Literal["gmm", "flow"]
) -> None:
    metrics = synthesize.run(
        Synthesize(count=70, seed=5, prior=prior), context(tmp_path / "fitted", trained)
    ).metrics
    assert metrics["prior/class_frequency_tv"] < 0.1
    assert json.loads((tmp_path / "fitted/dataset.json").read_text())["source"]["prior"] == prior
