"""The evaluate stage on a hand-made dataset with missing modalities and an untrained model."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.schema import Evaluate
from pipeline.data.batch import Batch
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import write_dataset
from pipeline.errors import InputError
from pipeline.metrics.fidelity import Fidelity, predict
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import posterior_mean, save_pretrained
from pipeline.models.prior import load_prior, widths
from pipeline.orchestration.progress import Progress
from pipeline.orchestration.stage import Context, Manifest, World
from stages import evaluate

SIZE = 32
ALL = ("rgb", "depth", "seg")
CLASSES = ("floor", "wall", "cube")


def sample(number: int, modalities: Sequence[str]) -> Sample:
    """A square of one colour, depth and label; the lowest pixels have neither depth nor label."""
    rng = np.random.default_rng(number)
    inside = np.zeros((SIZE, SIZE), bool)
    top, left = rng.integers(2, 18, 2)
    inside[top : top + 12, left : left + 12] = True
    rgb = np.where(inside[..., None], rng.integers(0, 256, 3), 90).astype(np.uint8)
    depth = np.where(inside, 1.0 + rng.random(), 3.0).astype(np.float32)
    seg = np.where(inside, 2, np.arange(SIZE)[:, None] < 16).astype(np.uint8)
    depth[-1], seg[-1] = np.nan, 255
    everything = {"rgb": rgb, "depth": depth, "seg": seg}
    return Sample(f"s{number:03d}", **{name: everything[name] for name in modalities})  # type: ignore[arg-type]


def prepare(root: Path, test: Sequence[Sequence[str]], train: Sequence[Sequence[str]]) -> dict[str, Path]:
    """A dataset whose rows have these modalities, and a model for it with random weights."""
    rows = [("train", row) for row in train] + [("test", row) for row in test]
    samples = [(split, sample(number, row)) for number, (split, row) in enumerate(rows)]
    names = CLASSES if any("seg" in row for _, row in rows) else ()
    info = write_dataset(root / "dataset", samples, class_names=names, image_size=SIZE)
    private = {"rgb": 3} if "rgb" in info.modalities else {}
    config, objective = Model(latent=5, private=private, width=8), Objective()
    (root / "train").mkdir()
    save_pretrained(
        root / "train", build_autoencoder(config, objective, info, seed=1), config, objective, info
    )
    return {"dataset": root / "dataset", "train": root / "train"}


def run(inputs: dict[str, Path], directory: Path, **config: object) -> Manifest:
    directory.mkdir()
    settings = Evaluate.model_validate(
        {"batch": 4, "pictures": 3, "nll_samples": 5, "nll_importance": 2} | config
    )
    progress = Progress("evaluate", silent=True)
    return evaluate.run(settings, Context("test", 0, directory.parent, directory, inputs, World(), progress))


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Seven test rows, of which the third has no depth and the last RGB alone."""
    test = [ALL, ALL, ("rgb", "seg"), ALL, ALL, ALL, ("rgb",)]
    return prepare(tmp_path_factory.mktemp("ragged"), test, [ALL] * 6)


@pytest.fixture(scope="module")
def manifest(ragged: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return run(ragged, tmp_path_factory.mktemp("evaluated") / "evaluate")


def test_every_subset_is_scored_in_every_modality(manifest: Manifest) -> None:
    givens = ["rgb+depth+seg", "rgb+depth", "rgb+seg", "depth+seg", "rgb", "depth", "seg", "constant"]
    metrics = [
        "rgb_psnr_db",
        "rgb_ssim",
        "sharpness",
        "depth_absrel",
        "depth_delta1",
        "depth_rmse_m",
        "seg_miou",
    ]
    expected = {f"{given}/{metric}" for given in givens for metric in metrics} | {"rgb+depth+seg/nll_nats"}
    assert set(manifest.metrics) == expected
    assert manifest.headline == (
        "rgb+depth+seg/rgb_psnr_db",
        "rgb+depth+seg/depth_absrel",
        "rgb+depth+seg/seg_miou",
        "rgb/depth_absrel",
        "rgb/seg_miou",
    )


@pytest.mark.parametrize("given", [ALL, ("rgb", "seg"), ("depth",)])
def test_a_subset_is_scored_on_the_rows_that_have_it(
    ragged: dict[str, Path], manifest: Manifest, given: tuple[str, ...]
) -> None:
    pretrained = evaluate.load_pretrained(ragged["train"])
    has = {"rgb": range(7), "depth": (0, 1, 3, 4, 5), "seg": range(6)}
    rows = sorted(set.intersection(*(set(has[name]) for name in given)))
    batch = ShardedDataset(ragged["dataset"]).read("test", rows)
    with torch.no_grad():
        _, shared, private = posterior_mean(pretrained.model, batch, given)
        fidelity = Fidelity(3)
        fidelity.update(predict(pretrained.model, pretrained.model.decode(shared, private)), batch)
    name = "+".join(given)
    expected = {f"{name}/{metric}": value for metric, value in fidelity.metrics().items()}
    measured = {key: value for key, value in manifest.metrics.items() if key.split("/")[0] == name}
    measured.pop("rgb+depth+seg/nll_nats", None)
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_size_does_not_matter(
    ragged: dict[str, Path], manifest: Manifest, tmp_path: Path, batch: int
) -> None:
    other = run(ragged, tmp_path / "evaluate", batch=batch)
    assert other.metrics == pytest.approx(manifest.metrics, rel=1e-5)


def test_a_second_run_gives_the_same_numbers_and_the_same_bytes(
    ragged: dict[str, Path], tmp_path: Path
) -> None:
    first, second = run(ragged, tmp_path / "a"), run(ragged, tmp_path / "b")
    assert first.metrics == second.metrics
    digests = [
        {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in (tmp_path / name).rglob("*.png")
        }
        for name in ("a", "b")
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"reconstructions.png", "translations.png", "samples.png", "overview.png"}


def test_the_constant_scene_is_scored(ragged: dict[str, Path], manifest: Manifest) -> None:
    dataset = ShardedDataset(ragged["dataset"])
    train, test = dataset.read("train", range(6)), dataset.read("test", range(7))
    mean_m = train.modalities["depth"].value.mean(dim=0)
    depth = test.modalities["depth"]
    valid = depth.valid[:, None]
    error = ((mean_m - depth.value).abs() / depth.value)[valid].mean()
    assert manifest.metrics["constant/depth_absrel"] == pytest.approx(float(error), rel=1e-5)


def test_rows_past_the_limit_are_left_out(ragged: dict[str, Path], tmp_path: Path) -> None:
    limited = run(ragged, tmp_path / "evaluate", limit=2, nll_samples=0)
    assert "rgb+depth+seg/nll_nats" not in limited.metrics
    dataset = ShardedDataset(ragged["dataset"])
    pretrained = evaluate.load_pretrained(ragged["train"])
    batch: Batch = dataset.read("test", range(2))
    with torch.no_grad():
        _, shared, private = posterior_mean(pretrained.model, batch, ALL)
        fidelity = Fidelity(3)
        fidelity.update(predict(pretrained.model, pretrained.model.decode(shared, private)), batch)
    assert limited.metrics["rgb+depth+seg/rgb_psnr_db"] == pytest.approx(
        fidelity.metrics()["rgb_psnr_db"], rel=1e-5
    )


def test_more_importance_samples_lower_the_bound(
    ragged: dict[str, Path], manifest: Manifest, tmp_path: Path
) -> None:
    many = run(ragged, tmp_path / "evaluate", nll_importance=24)
    assert many.metrics["rgb+depth+seg/nll_nats"] < manifest.metrics["rgb+depth+seg/nll_nats"]


def test_a_subset_that_no_row_has_is_absent(tmp_path: Path) -> None:
    inputs = prepare(tmp_path, [("rgb", "depth"), ("rgb", "depth")], [ALL] * 3)
    metrics = run(inputs, tmp_path / "evaluate").metrics
    assert {name.split("/")[0] for name in metrics} == {"rgb+depth", "rgb", "depth", "constant"}
    assert "rgb/seg_miou" not in metrics


@pytest.mark.parametrize("modalities", [("depth", "seg"), ("rgb",)])
def test_datasets_with_fewer_modalities_work(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    manifest = run(prepare(tmp_path, [modalities] * 3, [modalities] * 3), tmp_path / "evaluate")
    name = "+".join(modalities)
    assert f"{name}/nll_nats" in manifest.metrics
    first = {"rgb": "rgb_psnr_db", "depth": "depth_absrel"}[modalities[0]]
    assert manifest.headline[0] == f"{name}/{first}"
    assert set(manifest.headline) <= set(manifest.metrics)
    assert (tmp_path / "evaluate/pictures/overview.png").exists()
    assert (tmp_path / "evaluate/pictures/translations.png").exists() == (len(modalities) > 1)


def test_an_empty_test_split_is_refused_with_its_remedy(tmp_path: Path) -> None:
    inputs = prepare(tmp_path, [], [ALL] * 2)
    with pytest.raises(InputError, match=r"no test samples; raise data.test_fraction"):
        run(inputs, tmp_path / "evaluate")


def test_a_model_of_broken_weights_is_refused_by_the_name_of_the_metric(
    ragged: dict[str, Path], tmp_path: Path
) -> None:
    broken = evaluate.load_pretrained(ragged["train"])
    with torch.no_grad():
        next(iter(broken.model.decoders["depth"].parameters())).fill_(torch.nan)
    (tmp_path / "train").mkdir()
    save_pretrained(
        tmp_path / "train", broken.model, broken.model_config, broken.objective, replace(broken.info)
    )
    with pytest.raises(InputError, match="depth_absrel is nan: the trained model is broken"):
        run(ragged | {"train": tmp_path / "train"}, tmp_path / "evaluate")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Enough scenes to compare sets; every eighth test scene has no depth."""
    test = [ALL if number % 8 else ("rgb", "seg") for number in range(64)]
    return prepare(tmp_path_factory.mktemp("many"), test, [ALL] * 80)


@pytest.fixture(scope="module")
def sets(many: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    directory = tmp_path_factory.mktemp("sets") / "evaluate"
    return run(many, directory, batch=20, nll_samples=0), directory


def test_generated_scenes_are_scored_as_a_set_beside_real_ones(sets: tuple[Manifest, Path]) -> None:
    metrics = sets[0].metrics
    both = {"fd_pca", "fd_encoder", "kid", "density", "coverage", "sharpness"}
    assert {name.removeprefix("real/") for name in metrics if name.startswith("real/")} == both
    found = {name.removeprefix("prior/") for name in metrics if name.startswith("prior/")}
    assert found == both | {"memorisation", "scenes"}
    assert metrics["prior/scenes"] == 56
    assert metrics["real/coverage"] > 0.8
    assert metrics["real/sharpness"] == pytest.approx(1.0, abs=0.15)
    # the model has random weights: everything about its scenes is worse than what is possible
    assert metrics["prior/fd_pca"] > 2 * metrics["real/fd_pca"]
    assert metrics["prior/fd_encoder"] > 2 * metrics["real/fd_encoder"]
    assert metrics["prior/kid"] > metrics["real/kid"]
    assert metrics["prior/coverage"] < metrics["real/coverage"]


def test_the_yardstick_is_named_shared_and_made_again_to_the_bit(
    many: dict[str, Path], sets: tuple[Manifest, Path]
) -> None:
    manifest, directory = sets
    (file,) = (directory.parent / "datasets").glob("features-*.safetensors")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    described = json.loads((directory / "generation.json").read_text())
    assert described == {"features": file.name, "features_sha256": digest, "prior": "aggregate"}
    made = file.stat().st_mtime_ns
    again = run(many, directory.parent / "again", batch=20, nll_samples=0)
    assert again.metrics == manifest.metrics
    assert file.stat().st_mtime_ns == made
    file.unlink()
    anew = run(many, directory.parent / "anew", batch=20, nll_samples=0)
    assert anew.metrics == manifest.metrics
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("prior", ["training", "gmm", "flow"])
def test_scenes_are_drawn_from_the_prior_asked_for(
    many: dict[str, Path], sets: tuple[Manifest, Path], prior: str
) -> None:
    directory = sets[1].parent / prior
    metrics = run(many, directory, batch=20, nll_samples=0, prior=prior).metrics
    assert metrics["prior/fd_pca"] != sets[0].metrics["prior/fd_pca"]
    assert metrics["real/fd_pca"] == sets[0].metrics["real/fd_pca"]
    assert widths(load_prior(directory / "prior.safetensors")) == (5, {"rgb": 3})


def test_without_generated_scenes_no_yardstick_is_made(many: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(many, tmp_path / "evaluate", nll_samples=0, generated=0).metrics
    assert not any(name.startswith(("prior/", "real/")) for name in metrics)
    assert not (tmp_path / "datasets").exists()
    assert not (tmp_path / "evaluate/generation.json").exists()
