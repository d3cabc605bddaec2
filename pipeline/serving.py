"""How MLflow loads a model that a run registered.

import mlflow

model = mlflow.pyfunc.load_model("models:/demo/1")
model.predict({"rgb": images})  # {"depth": metres, "seg": class indices}
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.api import Triptych


class Translator:
    """Predicts the other modalities from RGB, as the registered signature says."""

    def __init__(self, model: Triptych) -> None:
        self._model = model

    def predict(
        self, model_input: dict[str, np.ndarray], params: dict[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Depth in metres and labels of each image.

        Args:
            model_input: `rgb`: uint8 (image, height, width, 3).
            params: Not used; MLflow passes it.

        Returns:
            `depth` and `seg`, as far as the model has them.
        """
        others = [name for name in self._model.modalities if name != "rgb"]
        scene = self._model.translate(rgb=np.asarray(model_input["rgb"], dtype=np.uint8), to=others)
        return {name: getattr(scene, name) for name in others}


def _load_pyfunc(path: str) -> Translator:
    """MLflow's entry: `path` holds `model.safetensors` and `model.json`."""
    return Translator(Triptych.from_pretrained(Path(path)))
