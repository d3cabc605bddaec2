"""The Python face of a trained model: arrays in, arrays out, and clear refusals."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from squares import CLASS_NAMES, SIDE, scene

from pipeline.api import Latent, Scene, Triptych
from pipeline.data.modality import Sample
from pipeline.errors import InputError
from pipeline.models.prior import save_prior, standard_prior
from pipeline.models.prior_gaussian import FullGaussian

DOCUMENT = Path(__file__).parents[2] / "docs" / "adaptation.md"


@pytest.fixture(scope="module")
def model(trained: dict[str, Path]) -> Triptych:
    return Triptych.from_pretrained(trained["train"])


@pytest.fixture(scope="module")
def square() -> Sample:
    return scene(7, disc=False)


def stacked(count: int) -> dict[str, np.ndarray]:
    samples = [scene(number, disc=False) for number in range(count)]
    return {name: np.stack([getattr(one, name) for one in samples]) for name in ("rgb", "depth", "seg")}


def test_the_documented_example_runs(
    trained: dict[str, Path], square: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "train").symlink_to(trained["train"])
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"image": square.rgb}
    exec(code[0], scope)  # the document's own code
    assert isinstance(scope["scene"], Scene)
    assert isinstance(scope["latent"], Latent)


def test_translation_beats_a_constant_guess(model: Triptych) -> None:
    scenes = stacked(20)
    guess = model.translate(depth=scenes["depth"], to=["seg"]).seg
    assert guess is not None
    known = scenes["seg"] != 255
    assert (guess == scenes["seg"])[known].mean() > 0.9


def test_one_scene_equals_a_batch_of_one(model: Triptych, square: Sample) -> None:
    assert square.rgb is not None
    alone, batch = model.encode(rgb=square.rgb), model.encode(rgb=square.rgb[None])
    assert np.array_equal(alone.shared, batch.shared[0])
    one, many = model.decode(alone), model.decode(batch)
    for name, shape in (("rgb", (SIDE, SIDE, 3)), ("depth", (SIDE, SIDE)), ("seg", (SIDE, SIDE))):
        assert getattr(one, name).shape == shape
        assert np.array_equal(getattr(one, name), getattr(many, name)[0])


def test_translating_is_encoding_then_decoding(model: Triptych, square: Sample) -> None:
    whole = model.decode(model.encode(rgb=square.rgb, depth=square.depth))
    part = model.translate(rgb=square.rgb, depth=square.depth, to="seg")
    assert part.rgb is None
    assert part.depth is None
    assert part.seg is not None
    assert np.array_equal(part.seg, whole.seg)


def test_more_modalities_make_the_posterior_narrower(model: Triptych, square: Sample) -> None:
    less, more = model.encode(depth=square.depth), model.encode(depth=square.depth, seg=square.seg)
    assert less.shared_std is not None
    assert more.shared_std is not None
    assert (more.shared_std <= less.shared_std).all()


def test_pixels_without_depth_or_label_change_nothing(model: Triptych, square: Sample) -> None:
    assert square.depth is not None
    hole = square.depth.copy()
    hole[:] = np.nan
    seg = model.encode(seg=square.seg)
    assert np.isfinite(model.encode(depth=hole, seg=square.seg).shared).all()
    assert seg.private["rgb"] == pytest.approx(0.0)


def test_samples_follow_the_seed_and_lie_in_range(model: Triptych) -> None:
    first, again, other = (model.sample(3, seed) for seed in (1, 1, 2))
    assert first.rgb is not None
    assert first.rgb.shape == (3, SIDE, SIDE, 3)
    assert np.array_equal(first.rgb, again.rgb)
    assert not np.array_equal(first.rgb, other.rgb)
    assert first.seg is not None
    assert first.seg.max() < len(CLASS_NAMES)


RGB = np.zeros((SIDE, SIDE, 3), np.uint8)
DEPTH = np.ones((SIDE, SIDE), np.float32)
SEG = np.zeros((SIDE, SIDE), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(), r"nothing to encode: give at least one of rgb, depth, seg"),
        (lambda m: m.encode(rgb=RGB[:20]), r"rgb has shape \(20, 32, 3\), but this model takes 32 x 32"),
        (lambda m: m.encode(rgb=RGB.transpose(2, 0, 1)), r"rgb has shape \(3, 32, 32\)"),
        (lambda m: m.encode(rgb=RGB / 255.0), r"rgb is float64, but must be uint8"),
        (lambda m: m.encode(depth=SEG), r"depth is uint8, but must be float metres"),
        (lambda m: m.encode(depth=DEPTH * 0), r"depth holds 0 m; mark pixels without depth as NaN"),
        (lambda m: m.encode(seg=SEG + 9), r"seg holds label 9, but the model knows 4 classes"),
        (lambda m: m.encode(rgb=RGB[None], seg=SEG), r"must show the same scenes"),
        (lambda m: m.encode(rgb=np.stack([RGB] * 2), seg=SEG[None]), r"must show the same scenes"),
        (lambda m: m.encode(rgb=np.zeros((0, SIDE, SIDE, 3), np.uint8)), r"at least one"),
        (
            lambda m: m.translate(rgb=RGB, to=("normals",)),
            r"modality 'normals': this model has rgb, depth, seg",
        ),
        (
            lambda m: m.decode(Latent(np.zeros(5), {})),
            r"shared latent has shape \(5,\), but must have \(8,\)",
        ),
        (
            lambda m: m.decode(Latent(np.zeros(8), {"seg": np.zeros(2)})),
            r"private latent seg: this model has rgb",
        ),
        (lambda m: m.sample(0), r"count is 0; ask for at least one scene"),
    ],
)
def test_a_wrong_array_is_refused_with_what_is_right(
    model: Triptych, call: Callable[[Triptych], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(model)


def test_a_run_directory_will_do(trained: dict[str, Path], square: Sample) -> None:
    model = Triptych.from_pretrained(trained["train"].parent)
    assert model.class_names == CLASS_NAMES


def test_scenes_are_drawn_from_the_prior_that_is_named(trained: dict[str, Path], tmp_path: Path) -> None:
    plain = Triptych.from_pretrained(trained["train"])
    shared = len(plain.sample_latent(1, seed=0).shared[0])
    private = {name: len(value[0]) for name, value in plain.sample_latent(1, seed=0).private.items()}
    point = FullGaussian(torch.full((shared,), 3.0), 1e-8 * torch.eye(shared))
    save_prior(tmp_path / "prior.safetensors", replace(standard_prior(shared, private), shared=point))
    model = Triptych.from_pretrained(trained["train"], prior=tmp_path / "prior.safetensors")
    np.testing.assert_allclose(model.sample_latent(5, seed=0).shared, 3.0, atol=0.01)


def test_a_prior_of_other_latents_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    save_prior(tmp_path / "prior.safetensors", standard_prior(2, {"depth": 1}))
    with pytest.raises(
        InputError, match=r"draws 2 shared and \{'depth': 1\} private latents, but this model"
    ):
        Triptych.from_pretrained(trained["train"], prior=tmp_path / "prior.safetensors")


def test_a_model_on_the_hub_is_fetched(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(name: str, **options: object) -> str:
        asked[name] = options
        return str(trained["train"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = Triptych.from_pretrained("someone/rooms-64", revision="v1")
    assert model.image_size == SIDE
    allowed = ["model.safetensors", "model.json"]
    assert asked == {"someone/rooms-64": {"revision": "v1", "allow_patterns": allowed}}


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"holds no model\.json; give the train directory"):
        Triptych.from_pretrained(tmp_path)

    def download(name: str, **options: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(
        InputError, match=r"someone/rooms: .* cannot be fetched from the Hugging Face Hub \(no connection"
    ):
        Triptych.from_pretrained("someone/rooms")
