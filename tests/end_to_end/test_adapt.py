"""Few-shot adaptation of a model of squares to discs, which it has never seen."""

from pathlib import Path

import pytest
from PIL import Image
from squares import COUNTS, DISC, context, digests, write_scenes

from pipeline.api import Triptych
from pipeline.config.schema import Adapt
from pipeline.errors import InputError
from pipeline.orchestration.stage import Manifest
from stages import adapt

pytestmark = pytest.mark.slow

CONFIG = Adapt(shots=(1, 4), draws=2, query=16, steps=100, batch=16, learning_rate=2e-2, replay=0.5)
ONLY_FOUR = CONFIG.model_copy(update={"shots": (4,)})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapted") / "adapt"


@pytest.fixture(scope="module")
def manifest(trained: dict[str, Path], directory: Path) -> Manifest:
    before = digests(trained["train"])
    result = adapt.run(CONFIG, context(directory, trained))
    assert digests(trained["train"]) == before
    return result


def test_adaptation_gains_more_nats_than_chance_explains(manifest: Manifest) -> None:
    metrics = manifest.metrics
    assert metrics["k4/gain_nats"] > 3 * metrics["k4/gain_nats_se"] > 0
    assert metrics["k4/gain_nats"] == pytest.approx(metrics["k0/nll_nats"] - metrics["k4/nll_nats"])
    assert metrics["k4/gain_nats"] > metrics["k1/gain_nats"]
    assert metrics["k4/seg_miou"] > metrics["k0/seg_miou"] + 0.02


def test_what_is_given_up_and_what_is_copied_stand_beside_the_gain(manifest: Manifest) -> None:
    measured = {name.removeprefix("k4/") for name in manifest.metrics if name.startswith("k4/")}
    per_modality = {
        f"{side}_{name}_{end}"
        for name in ("rgb", "depth", "seg")
        for side, end in (("gain", "nats"), ("source", "change_nats"))
    }
    assert measured == per_modality | {
        "gain_nats",
        "gain_nats_se",
        "gain_prior_nats",
        "improved_share",
        "memorisation",
        "memorisation_before",
        "nearest_support_ratio",
        "nearest_support_ratio_before",
        "nll_nats",
        "rgb_psnr_db",
        "depth_absrel",
        "seg_miou",
        "source_nll_change_nats",
    }
    assert abs(manifest.metrics["k4/source_nll_change_nats"]) < manifest.metrics["k4/gain_nats"]
    assert 0.0 <= manifest.metrics["k4/memorisation"] <= 1.0


def test_rehearsal_keeps_more_of_the_source(
    trained: dict[str, Path], manifest: Manifest, tmp_path: Path
) -> None:
    forgetful = adapt.run(ONLY_FOUR.model_copy(update={"replay": 0.0}), context(tmp_path / "adapt", trained))
    name = "k4/source_nll_change_nats"
    assert forgetful.metrics[name] > manifest.metrics[name] + 20.0


def test_the_same_episodes_write_the_same_bytes_whatever_else_runs(
    trained: dict[str, Path], manifest: Manifest, directory: Path, tmp_path: Path
) -> None:
    again = adapt.run(ONLY_FOUR, context(tmp_path / "adapt", trained))
    assert again.metrics == {n: value for n, value in manifest.metrics.items() if not n.startswith("k1/")}
    assert digests(tmp_path / "adapt") == {n: d for n, d in digests(directory).items() if "k1" not in n}


def test_fast_adaptation_moves_the_prior_alone(trained: dict[str, Path], tmp_path: Path) -> None:
    fast = adapt.run(
        ONLY_FOUR.model_copy(update={"fast": True}), context(tmp_path / "adapt", trained)
    ).metrics
    assert fast["k4/gain_nats"] == pytest.approx(fast["k4/gain_prior_nats"])
    assert fast["k4/gain_seg_nats"] == fast["k4/source_nll_change_nats"] == 0.0
    assert fast["k4/seg_miou"] == fast["k0/seg_miou"]
    assert fast["k4/gain_nats"] != 0.0
    model = Triptych.from_pretrained(trained["train"], adapter=tmp_path / "adapt" / "adapters" / "k4-draw1")
    assert model.sample(2).seg is not None


def test_a_picture_per_k_shows_support_samples_and_reconstructions(
    manifest: Manifest, directory: Path
) -> None:
    for shots in (1, 4):
        picture = Image.open(directory / "pictures" / f"adaptation-k{shots}.png")
        colours = picture.getcolors(1 << 24)
        assert picture.height > 500
        assert colours is not None
        assert len(colours) > 100


def test_a_kept_adapter_decodes_discs(trained: dict[str, Path], manifest: Manifest, directory: Path) -> None:
    plain = Triptych.from_pretrained(trained["train"])
    adapted = Triptych.from_pretrained(trained["train"], adapter=directory / "adapters" / "k4-draw0")
    before, after = (model.sample(40, seed=3).seg for model in (plain, adapted))
    assert before is not None
    assert after is not None
    assert (before == DISC).mean() < 0.03
    assert (after == DISC).mean() > 1.2 * (before == DISC).mean()


def test_nothing_held_out_is_refused_with_the_remedy(trained: dict[str, Path], tmp_path: Path) -> None:
    dataset = write_scenes(tmp_path / "dataset", COUNTS | {"heldout": 0})
    with pytest.raises(InputError, match=r"no held-out samples to adapt to; name some in data\.held_out"):
        adapt.run(CONFIG, context(tmp_path / "adapt", trained | {"dataset": dataset}))


def test_too_little_held_out_is_refused_with_the_numbers(trained: dict[str, Path], tmp_path: Path) -> None:
    dataset = write_scenes(tmp_path / "dataset", COUNTS | {"heldout": 8})
    with pytest.raises(InputError, match=r"need 9 held-out samples, but there are 8"):
        adapt.run(CONFIG, context(tmp_path / "adapt", trained | {"dataset": dataset}))
