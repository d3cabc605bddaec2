import pytest
import torch

from pipeline.data.batch import Batch, ModalityBatch
from pipeline.metrics.constant import constant_scene, pixel_sums


def batch(**modalities: ModalityBatch) -> Batch:
    rows = len(next(iter(modalities.values())).present)
    return Batch(modalities, tuple(map(str, range(rows))), torch.arange(rows))


def test_the_constant_scene_is_mean_mean_and_majority_of_what_is_valid() -> None:
    valid = torch.tensor([[[True, True], [True, False]], [[True, False], [True, False]]])
    depth = torch.tensor([[[1.0, 2.0], [3.0, 99.0]], [[3.0, 99.0], [5.0, 99.0]]])[:, None]
    seg = torch.tensor([[[0, 1], [2, 255]], [[0, 255], [1, 255]], [[1, 255], [1, 255]]])
    rgb = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.full((3, 2, 2), 0.8)])
    everything, two = torch.ones(3, 2, 2, dtype=torch.bool), torch.tensor([True, True, False])
    first = batch(
        rgb=ModalityBatch(rgb, two, everything & two[:, None, None]),
        depth=ModalityBatch(
            torch.cat([depth, torch.full((1, 1, 2, 2), 50.0)]),
            two,
            torch.cat([valid, torch.zeros(1, 2, 2, dtype=torch.bool)]),
        ),
        seg=ModalityBatch(seg, torch.ones(3, dtype=torch.bool), seg != 255),
    )
    whole = constant_scene([pixel_sums([first], 3)])
    halves = [first.rows(0, 1), first.rows(1, 3)]
    together = constant_scene([pixel_sums(halves, 3)])
    apart = constant_scene([pixel_sums([half], 3) for half in halves])
    for scene in (whole, together, apart):
        assert scene.rgb is not None
        assert scene.depth_m is not None
        assert scene.seg is not None
        assert scene.rgb.unique().tolist() == [0.5]
        # nobody has seen the last pixel: the mean of all values, (1 + 2 + 3 + 3 + 5) / 5
        assert scene.depth_m.flatten().tolist() == pytest.approx([2.0, 2.0, 4.0, 2.8])
        assert scene.seg.flatten().tolist() == [0, 1, 1, 1]


def test_a_modality_nobody_has_is_not_predicted() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    depth = ModalityBatch(torch.zeros(2, 1, 2, 2), nothing, torch.zeros(2, 2, 2, dtype=torch.bool))
    scene = constant_scene([pixel_sums([batch(depth=depth)], 0)])
    assert (scene.rgb, scene.depth_m, scene.seg) == (None, None, None)
