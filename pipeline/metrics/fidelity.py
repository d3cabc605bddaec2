"""How close predicted scenes are to true ones: PSNR, SSIM, sharpness, depth errors, intersection over union.

`Fidelity` adds up batches, so a split of any size is scored in the memory of one batch, and by several
processes; sums are kept in float64, so the size of the batches does not matter. docs/metrics.md says the
same for readers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.metrics.generation import edge_energy
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.variables import Decoded

MIN_DEPTH_M = 1e-3
"""Predicted depths are clamped to this from below."""

MIN_SQUARED_ERROR = 1e-10
"""Squared errors are clamped to this from below: a perfect image has a PSNR of 100 dB."""

DELTA = 1.25
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03


@dataclass(frozen=True)
class Prediction:
    """Scenes in the units of data; a modality that is not predicted is None.

    Attributes:
        rgb: 0..1.
        depth_m: Metres, valid everywhere.
        seg: Class labels.
    """

    rgb: Float[Tensor, "batch 3 height width"] | None = None
    depth_m: Float[Tensor, "batch 1 height width"] | None = None
    seg: Int[Tensor, "batch height width"] | None = None


def predict(model: SharedLatentAutoencoder, decoded: Decoded) -> Prediction:
    """The most likely scene: locations clamped to what exists, and the likeliest class of each pixel."""
    return Prediction(
        None if decoded.rgb is None else decoded.rgb.clamp(0.0, 1.0),
        None if decoded.depth is None else model.units.to_metres(decoded.depth).clamp_min(MIN_DEPTH_M),
        None if decoded.seg is None else decoded.seg.argmax(dim=1),
    )


class Fidelity:
    """Scores of predictions against a split, batch by batch."""

    def __init__(self, classes: int = 0) -> None:
        self._sums: dict[str, float] = {}
        self._images = self._pixels = 0
        self._confusion = torch.zeros(classes, classes, dtype=torch.int64)

    def update(
        self, prediction: Prediction, target: Batch, rows: Bool[Tensor, " batch"] | None = None
    ) -> None:
        """Add a batch; what is absent from the target is not scored.

        Args:
            prediction: One scene per row of the batch, or one for all of them.
            target: The truth.
            rows: Score only these; None: all.
        """
        for name, modality in target.modalities.items():
            chosen = modality.present if rows is None else modality.present & rows
            if not bool(chosen.any()):
                continue
            truth = modality if bool(chosen.all()) else modality[chosen]
            match name:
                case "rgb" if prediction.rgb is not None:
                    self._add_rgb(_rows(prediction.rgb, chosen), truth)
                case "depth" if prediction.depth_m is not None:
                    self._add_depth(_rows(prediction.depth_m, chosen), truth)
                case "seg" if prediction.seg is not None:
                    self._add_seg(_rows(prediction.seg, chosen), truth)

    def sums(self) -> dict[str, np.ndarray]:
        """What was added up so far, for `add_sums` elsewhere."""
        counted = {"images": self._images, "pixels": self._pixels, "confusion": self._confusion.numpy()}
        return {name: np.array(value) for name, value in (self._sums | counted).items()}

    def add_sums(self, sums: Mapping[str, np.ndarray]) -> None:
        """Add what another has added up: the same, in the same order, as adding its batches here."""
        for name, value in sums.items():
            match name:
                case "images":
                    self._images += int(value)
                case "pixels":
                    self._pixels += int(value)
                case "confusion":
                    self._confusion += torch.from_numpy(value)
                case _:
                    self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def metrics(self) -> dict[str, float]:
        """By name; a metric of which nothing was seen is left out."""
        values: dict[str, float] = {}
        if self._images:
            values["rgb_psnr_db"] = self._sums["psnr"] / self._images
            values["rgb_ssim"] = self._sums["ssim"] / self._images
            if self._sums["true_edges"] > 0.0:
                values["sharpness"] = self._sums["edges"] / self._sums["true_edges"]
        if self._pixels:
            values["depth_absrel"] = self._sums["absrel"] / self._pixels
            values["depth_delta1"] = self._sums["delta1"] / self._pixels
            values["depth_rmse_m"] = math.sqrt(self._sums["square"] / self._pixels)
        if bool(self._confusion.any()):
            values["seg_miou"] = mean_iou(self._confusion)
        return values

    def _add_rgb(self, rgb: Float[Tensor, "batch 3 height width"], truth: ModalityBatch) -> None:
        image = torch.where(truth.valid[:, None], rgb.clamp(0.0, 1.0), truth.value)
        self._images += len(image)
        self._add("psnr", psnr_db(image, truth.value, truth.valid))
        self._add("ssim", ssim(image, truth.value))
        self._add("edges", edge_energy(image))
        self._add("true_edges", edge_energy(truth.value))

    def _add_depth(self, depth_m: Float[Tensor, "batch 1 height width"], truth: ModalityBatch) -> None:
        value = truth.value[truth.valid[:, None]].double()
        guess = depth_m[truth.valid[:, None]].double().clamp_min(MIN_DEPTH_M)
        error = guess - value
        self._pixels += len(value)
        self._add("absrel", error.abs() / value)
        self._add("delta1", torch.maximum(guess / value, value / guess) < DELTA)
        self._add("square", error.square())

    def _add_seg(self, labels: Int[Tensor, "batch height width"], truth: ModalityBatch) -> None:
        self._confusion += confusion(labels, truth.value, truth.valid, len(self._confusion))

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.double().sum())


def psnr_db(
    image: Float[Tensor, "batch 3 height width"],
    truth: Float[Tensor, "batch 3 height width"],
    valid: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio: -10 log10 of the mean squared error over valid pixels, for a peak of 1.

    Args:
        image: Values 0..1.
        truth: Values 0..1.
        valid: False where a pixel has no value; such pixels do not count.
    """
    error = torch.where(valid[:, None], image - truth, 0.0).double().square().sum(dim=(1, 2, 3))
    events = 3 * valid.sum(dim=(1, 2)).clamp_min(1)
    return -10.0 * (error / events).clamp_min(MIN_SQUARED_ERROR).log10()


def ssim(
    image: Float[Tensor, "batch channel height width"], truth: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity for a data range of 1: per channel, averaged over windows and channels.

    SSIM = (2 mu_x mu_y + C1) (2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2)) with
    moments under an 11 x 11 Gaussian window of standard deviation 1.5, only where it lies inside the image.

    Args:
        image: Values 0..1.
        truth: Values 0..1.

    Raises:
        ValueError: If the images are smaller than the window.

    Source: Wang, Bovik, Sheikh & Simoncelli 2004, equation 13, with C1 = (0.01)^2 and C2 = (0.03)^2.
    """
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} pixels, not {image.shape[-2]} x {image.shape[-1]}"
        )
    image, truth = image.contiguous(), truth.contiguous()
    moments = torch.cat([image, truth, image.square(), truth.square(), image * truth], dim=1)
    mean_x, mean_y, square_x, square_y, product = _window_mean(moments).chunk(5, dim=1)
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance_x_contrast = (2 * mean_x * mean_y + SSIM_K1**2) * (2 * covariance + SSIM_K2**2)
    scale = (mean_x.square() + mean_y.square() + SSIM_K1**2) * (variances + SSIM_K2**2)
    return (luminance_x_contrast / scale).double().mean(dim=(1, 2, 3))


def confusion(
    labels: Int[Tensor, "batch height width"],
    truth: Int[Tensor, "batch height width"],
    valid: Bool[Tensor, "batch height width"],
    classes: int,
) -> Int[Tensor, "classes classes"]:
    """Valid pixels counted by true class (row) and predicted class (column)."""
    pairs = (truth[valid] * classes + labels[valid]).cpu()  # on a GPU bincount has no deterministic kernel
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(counts: Int[Tensor, "classes classes"]) -> float:
    """Intersection over union, averaged over the classes that occur in the truth.

    Source: Everingham et al. 2010 (Pascal VOC), segmentation: true positives / (true positives + false
        positives + false negatives), from counts pooled over the whole split.
    """
    counts = counts.double()
    correct, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    occurs = true > 0
    return float((correct[occurs] / (true + predicted - correct)[occurs]).mean())


def _window_mean(maps: Float[Tensor, "batch channel height width"]) -> Tensor:
    """Mean under the Gaussian window, one axis after the other."""
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-offset.square() / (2.0 * SSIM_SIGMA**2))
    window = (window / window.sum()).to(maps)
    channels = maps.shape[1]
    rows = F.conv2d(maps, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _rows(value: Tensor, chosen: Bool[Tensor, " batch"]) -> Tensor:
    """The chosen rows; a single row stands for all of them."""
    if len(value) == 1:
        return value.expand(int(chosen.sum()), *value.shape[1:])
    return value if bool(chosen.all()) else value[chosen]
