"""Two systems on a few small rooms, through the real command: trained, evaluated, put side by side."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CHECKOUT = Path(__file__).parents[2]

CONFIG = f"""\
extends: {CHECKOUT / "configs" / "base.yaml"}
name: small
data:
  source: {{kind: rooms, count: 160}}
  image_size: 32
  test_fraction: 0.1
model: {{width: 8, latent: 8}}
train: {{samples: 320, batch: 32}}
evaluate: {{nll_samples: 8, nll_importance: 2, generated: 0, pictures: 8}}
tracking: {{enabled: false}}
"""


@pytest.mark.slow
def test_two_systems_are_trained_on_the_same_scenes_and_put_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(CONFIG)
    result = subprocess.run(
        [sys.executable, "-m", "stages", "compare", "small.yaml", "--systems", "ae,vae", "--seeds", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    directory = tmp_path / "runs" / "small-compare"
    values = json.loads((directory / "comparison.json").read_text())
    assert list(values["systems"]) == ["ae", "vae"]
    for system in ("ae", "vae"):
        mean, spread = (values["systems"][system][name] for name in ("mean", "spread"))
        assert 5.0 < mean["rgb+depth+seg/rgb_psnr_db"] < 40.0
        assert spread["rgb+depth+seg/rgb_psnr_db"] > 0.0
        assert mean["train/samples_per_s"] > 0.0
    vae, ae = values["systems"]["vae"], values["systems"]["ae"]
    assert vae["mean"]["rgb+depth+seg/nll_nats"] > 0.0
    assert ae["missing"]["rgb+depth+seg/nll_nats"].startswith("no likelihood: codes are points")
    assert "evaluate.generated is 0" in ae["missing"]["prior/coverage"]
    assert vae["mean"]["constant/rgb_psnr_db"] == ae["mean"]["constant/rgb_psnr_db"]
    assert len(list((tmp_path / "runs" / "datasets").glob("[0-9a-f]*"))) == 1
    for name in ("comparison.png", "samples.png"):
        with Image.open(directory / name) as picture:
            assert picture.width > 600
    assert "Inferred from RGB alone" in result.stdout
