"""The analyze stage on a hand-made dataset and an untrained model."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from squares import CLASS_NAMES, SIDE, context, digests, scene

from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.config.schema import Analyze
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Factor
from pipeline.data.shards.dataset import write_dataset
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import save_pretrained
from stages import analyze

FACTORS = (
    Factor("stripe_count", ("1", "2", "3")),
    Factor("always", ("a", "b")),
    Factor("parity", ("even", "odd")),
)
SMALL = Analyze(samples=120, traversal_latents=4, traversal_steps=3, anchors=2, permutations=2, bootstrap=2)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A dataset whose factors are known, one of them always the same; and a model for it."""
    return _prepare(tmp_path_factory.mktemp("known"), factors=True)


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """The same scenes, about which nothing is known."""
    return _prepare(tmp_path_factory.mktemp("unknown"), factors=False)


@pytest.fixture(scope="module")
def finished(known, tmp_path_factory):
    directory = tmp_path_factory.mktemp("analyze")
    return directory, analyze.run(SMALL, context(directory, known))


def test_every_score_has_its_chance_level_and_interval(finished):
    _, manifest = finished
    scored = {
        f"interp/{name}{end}"
        for name in ("dci_d", "dci_c", "dci_i", "mig")
        for end in ("", "_floor", "_lo", "_hi")
    }
    assert set(manifest.metrics) == scored | {f"interp/active_units{end}" for end in ("", "_lo", "_hi")}
    assert manifest.headline == ("interp/dci_d", "interp/mig", "interp/active_units")
    assert all(np.isfinite(value) for value in manifest.metrics.values())


def test_a_tile_for_every_position_and_a_strip_of_all(finished):
    directory, manifest = finished
    tiles = json.loads((directory / "traversal" / "tiles.json").read_text(encoding="utf-8"))["tiles"]
    drawn = sorted((directory / "traversal").glob("*/*.png"))
    assert drawn == sorted(directory / "traversal" / tile["path"] for tile in tiles)
    assert len(tiles) == 4 * 3
    assert all(re.fullmatch(r"(z|rgb)\d\d/00[012]\.png", tile["path"]) for tile in tiles)
    assert {_size(path) for path in drawn} == {(256, 256)}
    assert all((directory / path).is_file() for path in manifest.outputs.values())


def test_factor_that_never_changes_is_left_out_and_said(finished):
    directory, _ = finished
    page = (directory / "index.html").read_text(encoding="utf-8")
    assert "Left out, because all samples have the same value: always." in page
    assert "40 test samples and 80 train samples" in page
    latents = json.loads((directory / "latents.json").read_text(encoding="utf-8"))["latents"]
    assert [latent["key"] for latent in latents] == ["z00", "z01", "z02", "z03", "z04", "rgb00", "rgb01"]
    told = [set(latent["tells"]) for latent in latents if "tells" in latent]
    assert told == [{"stripe count", "parity"}] * 4


def test_the_same_again_gives_the_same_bytes(finished, known, tmp_path):
    directory, manifest = finished
    again = analyze.run(SMALL, context(tmp_path, known))
    assert again.metrics == manifest.metrics
    assert digests(tmp_path) == digests(directory)


def test_without_factors_only_active_units_are_scored(unknown, tmp_path):
    manifest = analyze.run(SMALL, context(tmp_path, unknown))
    assert set(manifest.metrics) == {f"interp/active_units{end}" for end in ("", "_lo", "_hi")}
    assert manifest.headline == ("interp/active_units",)
    assert (tmp_path / "index.html").is_file()


def test_too_few_samples_score_no_factors(known, tmp_path):
    manifest = analyze.run(SMALL.model_copy(update={"samples": 30}), context(tmp_path, known))
    assert "interp/dci_d" not in manifest.metrics


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _prepare(root: Path, *, factors: bool) -> dict[str, Path]:
    samples = []
    for number in range(160):
        values = {"stripe_count": number % 3, "always": 1, "parity": number % 2}
        sample = replace(scene(number, disc=False), factors=values if factors else None)
        samples.append(("test" if number % 4 == 0 else "train", sample))
    (root / "train").mkdir()
    write_dataset(
        root / "dataset",
        samples,
        class_names=CLASS_NAMES,
        image_size=SIDE,
        factors=FACTORS if factors else (),
    )
    info = ShardedDataset(root / "dataset").info
    config, objective = Model(latent=5, private={"rgb": 2}, width=8), Objective()
    save_pretrained(
        root / "train", build_autoencoder(config, objective, info, seed=0), config, objective, info
    )
    return {"dataset": root / "dataset", "train": root / "train"}


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size
