"""From tensors to views: a batch of real scenes, or what the decoders made."""

import numpy as np

from pipeline.analysis.views import Views
from pipeline.data.batch import Batch
from pipeline.data.modality import IGNORE_INDEX
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Decoded


def batch_views(batch: Batch) -> Views:
    """Real scenes; what is absent or has no value is unknown."""
    rgb = depth_m = labels = None
    if modality := batch.modalities.get("rgb"):
        rgb = np.where(modality.valid[:, None].numpy(), modality.value.numpy(), np.float32(np.nan))
    if modality := batch.modalities.get("depth"):
        depth_m = np.where(modality.valid.numpy(), modality.value[:, 0].numpy(), np.float32(np.nan))
    if modality := batch.modalities.get("seg"):
        labels = np.where(modality.valid.numpy(), modality.value.numpy(), IGNORE_INDEX).astype(np.uint8)
    return Views(rgb, depth_m, labels)


def decoded_views(model: SharedLatentAutoencoder, decoded: Decoded) -> Views:
    """The likelihoods' locations; each pixel's label is its most probable class."""
    rgb = depth_m = labels = None
    if decoded.rgb is not None:
        rgb = decoded.rgb.clamp(0.0, 1.0).float().cpu().numpy()
    if decoded.depth is not None:
        depth_m = model.units.to_metres(decoded.depth)[:, 0].float().cpu().numpy()
    if decoded.seg is not None:
        labels = decoded.seg.argmax(dim=1).cpu().numpy().astype(np.uint8)
    return Views(rgb, depth_m, labels)
