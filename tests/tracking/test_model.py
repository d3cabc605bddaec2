"""A trained model in MLflow's registry: what it takes, an example, and that it predicts as ours does."""

import io
import json
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from pipeline.api import Triptych
from pipeline.config.model import Model
from pipeline.config.objective import Objective
from pipeline.data.modality import DatasetInfo, DepthStatistics
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.pretrained import save_pretrained
from pipeline.orchestration.tracking import sync
from tests.tracking.fake_run import FakeRun, config_of
from tests.tracking.server import Server

pytestmark = pytest.mark.slow

SIZE = 32
INFO = DatasetInfo(
    modalities=("rgb", "depth", "seg"),
    class_names=("floor", "wall", "cube"),
    image_size=SIZE,
    counts={"train": 8},
    depth=DepthStatistics(3.0, 0.5, 1.0, 5.0, 1.1, 0.2),
)


@pytest.fixture
def run(root: Path) -> FakeRun:
    """A dataset of one test image, and a model that was not trained."""
    run = FakeRun(root, config_of())
    _write_test_shard(run.start("shard") / "test-000000.tar")
    run.finish("shard")
    config, objective = Model(latent=6, private={"rgb": 3}, width=8), Objective()
    directory = run.start("train")
    save_pretrained(directory, build_autoencoder(config, objective, INFO, 0), config, objective, INFO)
    run.finish("train", final=1.0)
    return run


def test_the_registered_model_predicts_what_the_python_face_predicts(run: FakeRun, root: Path) -> None:
    sync(run.directory, run.config)
    server = Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")
    (version,) = server.client.search_model_versions("name = 'demo'")
    assert version.run_id == server.only("demo:train").identifier
    model = _loaded(root)
    assert model.metadata.signature.inputs.to_dict() == [
        {"name": "rgb", "type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": (-1, SIZE, SIZE, 3)}}
    ]
    np.testing.assert_array_equal(model.input_example["rgb"], _image()[None])
    predicted = model.predict(model.input_example)
    expected = Triptych.from_pretrained(run.directory / "train").translate(
        rgb=_image()[None], to=("depth", "seg")
    )
    np.testing.assert_array_equal(predicted["depth"], expected.depth)
    np.testing.assert_array_equal(predicted["seg"], expected.seg)
    kinds = {
        spec["name"]: spec["tensor-spec"]["dtype"] for spec in model.metadata.signature.outputs.to_dict()
    }
    assert kinds == {name: str(value.dtype) for name, value in predicted.items()}


def test_a_model_is_registered_once_however_often_its_upload_is_repeated(run: FakeRun, root: Path) -> None:
    sync(run.directory, run.config)
    _forget_state(run.directory / "mlflow.json")
    sync(run.directory, run.config)
    server = Server(f"sqlite:///{root.resolve() / 'mlflow.db'}")
    assert len(server.client.search_model_versions("name = 'demo'")) == 1


def test_mirroring_a_model_needs_no_torch(run: FakeRun) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.orchestration.mirror_model import write_model\n"
        "assert write_model(Path(sys.argv[1]), Path(sys.argv[2])); assert 'torch' not in sys.modules"
    )
    target = run.root / "written"
    target.mkdir()
    subprocess.run([sys.executable, "-c", script, run.directory / "train", target], check=True)
    assert (target / "MLmodel").is_file()


def _forget_state(cursor: Path) -> None:
    values = json.loads(cursor.read_text())
    for execution in values["servers"]["local#triptych"]["executions"]:
        execution["sent"] |= {"state": "RUNNING", "model": False}
    cursor.write_text(json.dumps(values))


def _loaded(root: Path) -> object:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{root.resolve() / 'mlflow.db'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own, about what its loader finds in this environment
            return mlflow.pyfunc.load_model("models:/demo/1")
    finally:
        mlflow.set_tracking_uri(None)


def _image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def _write_test_shard(path: Path) -> None:
    content = io.BytesIO()
    np.save(content, _image())
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("scene0.rgb.npy")
        member.size = len(content.getvalue())
        tar.addfile(member, io.BytesIO(content.getvalue()))
