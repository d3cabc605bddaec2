"""The features of a dataset: what they see, what they do not, and the file that all runs share."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError
from pipeline.metrics.features import (
    SceneFeatures,
    channels_of,
    complete_rows,
    feature_bytes,
    feature_digest,
    fit_components,
    load_features,
    pooled,
    read_scenes,
    scene_count,
    scene_maps,
    scene_rows,
    with_gaps_of,
)
from pipeline.metrics.fidelity import Prediction
from pipeline.metrics.generation import frechet_distance
from pipeline.orchestration import dataset_features as shared_file
from pipeline.orchestration.dataset_features import dataset_features
from pipeline.orchestration.progress import Progress
from pipeline.training.feature_network import (
    contrast,
    fit_features,
    hidden_half,
    train_feature_network,
    training_scenes,
)

SIDE = 32
CLASSES = ("floor", "wall", "cube")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scene(number: int) -> Sample:
    """A square of one of four colours at one of many places; every tenth scene has no depth."""
    rng = np.random.default_rng(number)
    inside = np.zeros((SIDE, SIDE), bool)
    top, left = rng.integers(2, 18, 2)
    inside[top : top + 12, left : left + 12] = True
    colours = np.array([[230, 40, 40], [40, 220, 60], [50, 60, 240], [230, 220, 40]])
    rgb = np.where(inside[..., None], colours[number % 4], rng.integers(60, 120)).astype(np.uint8)
    depth = np.where(inside, 1.0 + rng.random(), 3.0).astype(np.float32)
    seg = np.where(inside, 2, np.arange(SIDE)[:, None] < 16).astype(np.uint8)
    depth[-1], seg[-1] = np.nan, 255
    return Sample(f"s{number:04d}", rgb, None if number % 10 == 9 else depth, seg)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("features") / "dataset"
    splits = ["train"] * 300 + ["test"] * 300
    rows = [(split, scene(number)) for number, split in enumerate(splits)]
    write_dataset(directory, rows, class_names=CLASSES, image_size=SIDE)
    return directory


@pytest.fixture(scope="module")
def dataset(directory: Path) -> ShardedDataset:
    return ShardedDataset(directory)


@pytest.fixture(scope="module")
def features(dataset: ShardedDataset) -> SceneFeatures:
    return fit_features(dataset)


@pytest.fixture(scope="module")
def real(dataset: ShardedDataset) -> Prediction:
    return read_scenes(dataset, "test", complete_rows(dataset, "test", dataset.length("test")))


def test_only_complete_rows_are_looked_at(dataset: ShardedDataset) -> None:
    rows = complete_rows(dataset, "train", 40)
    assert rows.tolist() == [row for row in range(40) if row % 10 != 9]
    assert scene_count(training_scenes(dataset, 300)) == 270


def test_components_weigh_modalities_alike_and_are_those_of_the_covariance(
    dataset: ShardedDataset, real: Prediction
) -> None:
    info = dataset.info
    maps = scene_maps(real, info)
    fitted = fit_components(maps, info, count=10_000)
    coordinates = fitted(maps).double()
    torch.testing.assert_close(
        coordinates.mean(0), torch.zeros(coordinates.shape[1]).double(), atol=1e-4, rtol=0
    )
    spread = torch.cov(coordinates.T, correction=0)
    torch.testing.assert_close(spread, torch.diag(spread.diagonal()), atol=1e-5, rtol=0)
    assert float(spread.trace()) == pytest.approx(3.0, rel=1e-4)  # one per modality
    assert bool((spread.diagonal().diff() <= 1e-7).all())
    for channels in channels_of(info).values():
        alone = torch.zeros_like(maps)
        alone[:, channels] = maps[:, channels]
        own = pooled(alone) - pooled(alone).mean(0)
        assert float((own @ fitted.basis).square().sum(1).mean()) == pytest.approx(1.0, rel=0.05)


def test_pixels_without_a_value_are_nothing_and_gaps_can_be_borrowed(
    dataset: ShardedDataset, real: Prediction
) -> None:
    maps = scene_maps(real, dataset.info)
    assert float(maps[:, 3:, -1].abs().max()) == 0.0
    assert real.rgb is not None
    assert real.depth_m is not None
    assert real.seg is not None
    filled = Prediction(
        real.rgb, torch.where(real.depth_m > 0, real.depth_m, 9.0), torch.where(real.seg < 255, real.seg, 1)
    )
    assert not torch.equal(scene_maps(filled, dataset.info), maps)
    assert torch.equal(scene_maps(with_gaps_of(filled, real), dataset.info), maps)


def test_large_scenes_are_reduced_without_inventing_depths_or_labels(
    dataset: ShardedDataset, real: Prediction
) -> None:
    part = scene_rows(real, slice(0, 3))
    large = Prediction(
        *(
            None if value is None else value.repeat_interleave(4, -1).repeat_interleave(4, -2)
            for value in (part.rgb, part.depth_m, part.seg)
        )
    )
    double = Prediction(
        *(
            None if value is None else value.repeat_interleave(2, -1).repeat_interleave(2, -2)
            for value in (part.rgb, part.depth_m, part.seg)
        )
    )
    torch.testing.assert_close(scene_maps(large, dataset.info), scene_maps(double, dataset.info))


def test_training_scenes_have_features_of_mean_zero_and_variance_one(
    dataset: ShardedDataset, features: SceneFeatures
) -> None:
    found = features.encoder(training_scenes(dataset, 300))
    torch.testing.assert_close(found.mean(0), torch.zeros(64).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(64).double(), atol=1e-3, rtol=0)


def test_halves_of_two_scenes_are_farther_from_real_ones_than_other_real_ones_are(
    dataset: ShardedDataset, features: SceneFeatures, real: Prediction
) -> None:
    fresh = training_scenes(dataset, 300)
    assert fresh.rgb is not None
    reference = features.encoder(real)
    nearest = frechet_distance(features.encoder(fresh), reference)
    turned = torch.arange(len(fresh.rgb)).roll(1)
    halves = Prediction(
        *(
            None if value is None else torch.cat([value[..., :16], value[turned][..., 16:]], dim=-1)
            for value in (fresh.rgb, fresh.depth_m, fresh.seg)
        )
    )
    assert frechet_distance(features.encoder(halves), reference) > 1.3 * nearest


def test_the_contrast_of_views_that_tell_nothing_is_the_log_of_their_number() -> None:
    same = torch.nn.functional.normalize(torch.ones(8, 5), dim=1)
    assert float(contrast(same, same)) == pytest.approx(np.log(8), rel=1e-5)
    assert float(contrast(torch.eye(8), torch.eye(8))) == pytest.approx(np.log(1 + 7 * np.exp(-10)), rel=1e-3)


def test_a_view_hides_half_the_blocks_and_all_channels_of_a_modality_together() -> None:
    maps = torch.ones(200, 7, 16, 16)
    channels = {"rgb": slice(0, 3), "depth": slice(3, 4), "seg": slice(4, 7)}
    view = hidden_half(maps, channels, torch.Generator().manual_seed(0))
    assert float(view.mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(view[:, 0], view[:, 2])
    assert torch.equal(view[:, 4], view[:, 6])
    assert not torch.equal(view[:, 2], view[:, 3])
    blocks = view.view(200, 7, 4, 4, 4, 4).mean((3, 5))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}


def test_features_are_the_same_every_time_and_leave_the_global_generator_alone(
    dataset: ShardedDataset,
) -> None:
    before = torch.random.get_rng_state()
    scenes = training_scenes(dataset, 100)
    first, second = (train_feature_network(scenes, dataset.info, steps=6) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_the_file_gives_the_same_features_and_bytes(
    dataset: ShardedDataset, features: SceneFeatures, real: Prediction, tmp_path: Path
) -> None:
    path = tmp_path / "features.safetensors"
    path.write_bytes(feature_bytes(features))
    loaded = load_features(path, dataset.info)
    assert torch.equal(loaded.encoder(real), features.encoder(real))
    assert torch.equal(loaded.pca(real), features.pca(real))
    digest = feature_digest(path)
    path.write_bytes(feature_bytes(loaded))
    assert feature_digest(path) == digest


def test_two_runs_at_once_make_one_file(
    directory: Path,
    dataset: ShardedDataset,
    features: SceneFeatures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def slow(dataset: ShardedDataset, after_step: object) -> SceneFeatures:
        made.append(threading.get_ident())
        threading.Event().wait(0.3)
        return features

    monkeypatch.setattr(shared_file, "fit_features", slow)
    found: list[Path] = []

    def ask() -> None:
        progress = Progress("evaluate", silent=True)
        found.append(dataset_features(tmp_path, directory, dataset, progress))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert load_features(found[0], dataset.info).info == dataset.info
    assert not list((tmp_path / "datasets").glob("*.tmp"))


@pytest.mark.parametrize("damage", ["missing", "cut", "version"])
def test_a_damaged_file_is_refused_with_its_remedy(
    dataset: ShardedDataset, features: SceneFeatures, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "features.safetensors"
    content = feature_bytes(features)
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "version":
        path.write_bytes(content.replace(b'"version":"1"', b'"version":"0"'))
    with pytest.raises(InputError, match="remove the file"):
        load_features(path, dataset.info)
