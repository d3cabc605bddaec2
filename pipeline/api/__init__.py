"""Use a trained model from Python: numpy arrays in, numpy arrays out.

    from pipeline.api import Triptych

    model = Triptych.from_pretrained("runs/demo/train")
    scene = model.translate(rgb=image, to=("depth", "seg"))
    scene.depth  # metres

An image is uint8 (height, width, 3), depth float metres (height, width) with NaN where there is none,
a label map uint8 (height, width) with 255 where there is none; each may have a leading batch axis,
and what comes out has one exactly if what went in had.
"""

from pipeline.api.triptych import Latent, Scene, Triptych

__all__ = ["Latent", "Scene", "Triptych"]
