import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate
from torch import Tensor

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.metrics.fidelity import Fidelity, Prediction, confusion, mean_iou, psnr_db, ssim


def batch_of(present: list[bool] | None = None, **values: Tensor) -> Batch:
    """A batch whose invalid pixels are those of depth 0 and label 255."""
    rows = len(next(iter(values.values())))
    here = torch.tensor([True] * rows if present is None else present)
    modalities = {}
    for name, value in values.items():
        valid = (
            torch.ones(rows, *value.shape[-2:], dtype=torch.bool)
            if name == "rgb"
            else (value[:, 0] > 0 if name == "depth" else value != 255)
        )
        modalities[name] = ModalityBatch(value, here, valid & here[:, None, None])
    return Batch(modalities, tuple(map(str, range(rows))), torch.arange(rows))


def random_scenes(rows: int, seed: int = 0) -> tuple[Batch, Prediction]:
    generator = torch.Generator().manual_seed(seed)
    rgb, depth = (torch.rand(rows, channels, 16, 16, generator=generator) for channels in (3, 1))
    depth[depth < 0.2] = 0.0
    seg = torch.randint(0, 5, (rows, 16, 16), generator=generator)
    seg[seg == 4] = 255
    target = batch_of(rgb=rgb, depth=depth * 4.0, seg=seg)
    guess = Prediction(
        torch.rand(rows, 3, 16, 16, generator=generator),
        torch.rand(rows, 1, 16, 16, generator=generator) * 4.0,
        torch.randint(0, 4, (rows, 16, 16), generator=generator),
    )
    return target, guess


def scored(prediction: Prediction, target: Batch, classes: int = 4) -> dict[str, float]:
    fidelity = Fidelity(classes)
    fidelity.update(prediction, target)
    return fidelity.metrics()


def test_psnr_is_the_mean_over_images_not_of_the_pooled_error() -> None:
    truth = torch.zeros(2, 3, 16, 16)
    guess = torch.stack([torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.01)])
    assert scored(Prediction(rgb=guess), batch_of(rgb=truth))["rgb_psnr_db"] == pytest.approx(
        (20 + 40) / 2, abs=1e-4
    )


def test_predicted_rgb_is_clamped_before_it_is_scored() -> None:
    metrics = scored(Prediction(rgb=torch.full((1, 3, 16, 16), 7.5)), batch_of(rgb=torch.ones(1, 3, 16, 16)))
    assert metrics["rgb_psnr_db"] == pytest.approx(100.0)
    assert metrics["rgb_ssim"] == pytest.approx(1.0)


def test_psnr_counts_valid_pixels_only() -> None:
    truth, guess = torch.zeros(1, 3, 1, 4), torch.tensor([0.1, 0.1, math.nan, 5.0]).expand(1, 3, 1, 4)
    valid = torch.tensor([True, True, False, False]).view(1, 1, 4)
    assert psnr_db(guess, truth, valid).item() == pytest.approx(20.0, abs=1e-5)


def direct_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 window by window, as in their text."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def local(image: np.ndarray) -> np.ndarray:
        return correlate(image, window, mode="constant")[5:-5, 5:-5]

    scores = []
    for a, b in zip(x, y, strict=True):
        mean_a, mean_b = local(a), local(b)
        var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
        cov = local(a * b) - mean_a * mean_b
        top = (2 * mean_a * mean_b + 0.01**2) * (2 * cov + 0.03**2)
        scores.append(top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
    return float(np.mean(scores))


def test_ssim_agrees_with_a_direct_implementation() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.random((2, 4, 3, 24, 20))
    y[1] = 0.8 * x[1] + 0.2 * y[1]
    expected = [direct_ssim(a, b) for a, b in zip(x, y, strict=True)]
    assert expected[1] > 0.5 > expected[0]
    np.testing.assert_allclose(ssim(torch.from_numpy(x), torch.from_numpy(y)), expected, rtol=1e-9)
    np.testing.assert_allclose(
        ssim(torch.from_numpy(x).float(), torch.from_numpy(y).float()), expected, atol=1e-5
    )


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_depth_errors_of_a_hand_example() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0, 0.0]).view(1, 1, 2, 2)  # the last has no depth
    guess = torch.tensor([1.1, 1.5, 4.8, 9.0]).view(1, 1, 2, 2)
    metrics = scored(Prediction(depth_m=guess), batch_of(depth=truth))
    assert metrics["depth_absrel"] == pytest.approx((0.1 + 0.25 + 0.2) / 3)
    assert metrics["depth_delta1"] == pytest.approx(2 / 3)  # ratios 1.1, 1.33 and 1.2
    assert metrics["depth_rmse_m"] == pytest.approx(math.sqrt((0.01 + 0.25 + 0.64) / 3))


def test_depth_is_pooled_over_pixels_not_averaged_over_images() -> None:
    truth = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    guess = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 9.0, 9.0, 9.0]]).view(2, 1, 2, 2)
    assert scored(Prediction(depth_m=guess), batch_of(depth=truth))["depth_absrel"] == pytest.approx(1 / 5)


def test_predicted_depth_is_at_least_a_millimetre() -> None:
    metrics = scored(
        Prediction(depth_m=torch.full((1, 1, 2, 2), -3.0)), batch_of(depth=torch.ones(1, 1, 2, 2))
    )
    assert metrics["depth_absrel"] == pytest.approx(0.999)


def test_iou_of_a_hand_example_leaves_out_a_class_that_does_not_occur() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [1, 255, 0, 3]]).view(1, 2, 4)
    guess = torch.tensor([[0, 1, 1, 1], [2, 1, 0, 0]]).view(1, 2, 4)
    # class 0: 2 right, 1 missed, 1 wrong; 1: 2 right, 1 missed, 1 wrong; 3: missed; 2 is never true
    expected = (2 / 4 + 2 / 4 + 0 / 1) / 3
    assert scored(Prediction(seg=guess), batch_of(seg=truth))["seg_miou"] == pytest.approx(expected)


def test_iou_is_pooled_over_the_split() -> None:
    first = batch_of(seg=torch.zeros(1, 2, 2, dtype=torch.long))
    second = batch_of(seg=torch.ones(1, 2, 2, dtype=torch.long))
    fidelity = Fidelity(2)
    fidelity.update(Prediction(seg=torch.zeros(1, 2, 2, dtype=torch.long)), first)
    fidelity.update(Prediction(seg=torch.tensor([[[1, 1], [1, 0]]])), second)
    assert fidelity.metrics()["seg_miou"] == pytest.approx((4 / 5 + 3 / 4) / 2)


def test_confusion_counts_the_truth_in_rows_and_valid_pixels_only() -> None:
    truth, guess = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 1, 1, 1]]])
    assert confusion(guess, truth, truth != 255, 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_iou_of_a_confusion_matrix() -> None:
    assert mean_iou(torch.tensor([[3, 1], [2, 4]])) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_a_perfect_prediction_has_perfect_metrics() -> None:
    target, _ = random_scenes(3)
    copy = Prediction(*(target.modalities[name].value for name in ("rgb", "depth")))
    labels = target.modalities["seg"].value.clamp(max=3)
    assert scored(Prediction(copy.rgb, copy.depth_m, labels), target) == pytest.approx({
        "rgb_psnr_db": 100.0,
        "rgb_ssim": 1.0,
        "depth_absrel": 0.0,
        "depth_delta1": 1.0,
        "depth_rmse_m": 0.0,
        "seg_miou": 1.0,
        "sharpness": 1.0,
    })


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 6)), seed=st.integers(0, 3))
def test_the_size_of_batches_does_not_matter(cuts: set[int], seed: int) -> None:
    target, guess = random_scenes(7, seed)
    assert guess.rgb is not None
    assert guess.depth_m is not None
    assert guess.seg is not None
    fidelity = Fidelity(4)
    edges = [0, *sorted(cuts), 7]
    for start, stop in pairwise(edges):
        part = Prediction(guess.rgb[start:stop], guess.depth_m[start:stop], guess.seg[start:stop])
        fidelity.update(part, target.rows(start, stop))
    assert fidelity.metrics() == pytest.approx(scored(guess, target), rel=1e-6)


def test_rows_without_the_modality_or_left_out_change_nothing() -> None:
    target, guess = random_scenes(4)
    assert guess.rgb is not None
    rgb = target.modalities["rgb"].value
    absent = batch_of([True, False, True, True], rgb=rgb)
    left_out = Fidelity(4)
    left_out.update(Prediction(rgb=guess.rgb), absent, torch.tensor([True, True, True, False]))
    only = batch_of(rgb=rgb[[0, 2]])
    assert left_out.metrics() == pytest.approx(scored(Prediction(rgb=guess.rgb[[0, 2]]), only))


def test_nothing_seen_gives_no_metric() -> None:
    target, guess = random_scenes(2)
    fidelity = Fidelity(4)
    fidelity.update(guess, target, torch.tensor([False, False]))
    assert fidelity.metrics() == {}


def test_one_scene_stands_for_every_row() -> None:
    target, guess = random_scenes(3)
    assert guess.rgb is not None
    one = Prediction(rgb=guess.rgb[:1])
    same = Prediction(rgb=guess.rgb[:1].expand(3, -1, -1, -1))
    assert scored(one, target) == pytest.approx(scored(same, target))
