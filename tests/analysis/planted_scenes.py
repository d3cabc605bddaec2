"""A decoder made by hand: what each of its latents does is known."""

import numpy as np

from pipeline.analysis.traversal import SHARED, Latent, Usage
from pipeline.analysis.views import Views
from pipeline.data.modality import DatasetInfo, DepthStatistics, Factor

SIZE = 32
CLASSES = ("floor", "ball", "box")
INFO = DatasetInfo(
    modalities=("rgb", "depth", "seg"),
    class_names=CLASSES,
    image_size=SIZE,
    counts={"train": 10, "test": 10},
    factors=(Factor("size", ("small", "large")), Factor("colour", ("green", "red"))),
    depth=DepthStatistics(mean_m=2.0, std_m=0.5, min_m=1.0, max_m=3.0, log_mean=0.7, log_std=0.2),
)

NEARER, LARGER, NOTHING, REDDER, RIGHT, FLICKER = range(6)
"""What each latent of the decoder does, in the direction of its rise."""

LATENTS = (*(Latent(column, SHARED, column) for column in range(5)), Latent(5, "rgb", 0))


def decode(codes: np.ndarray) -> Views:
    """A ball before a floor at 3 m."""
    codes = np.clip(codes, -2.0, 2.0)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    centre = 16.0 + 3.0 * codes[:, RIGHT, None, None]
    radius = 6.0 + 1.5 * codes[:, LARGER, None, None]
    ball = (rows - 16.0) ** 2 + (columns - centre) ** 2 <= radius**2
    depth_m = np.where(ball, 2.0 - 0.2 * codes[:, NEARER, None, None], 3.0).astype(np.float32)
    red = 0.5 + 0.1 * codes[:, REDDER, None, None]
    # brightens the scene where another latent is positive and darkens it where it is negative
    light = 0.1 * (codes[:, FLICKER] * np.sign(codes[:, NOTHING]))[:, None, None]
    rgb = np.stack([np.where(ball, 0.5, red), np.full(ball.shape, 0.5), np.full(ball.shape, 0.5)], axis=1)
    rgb = (rgb + light[:, None]).astype(np.float32)
    return Views(rgb, depth_m, ball.astype(np.uint8))


def draw_codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, len(LATENTS))).astype(np.float32)


def usage() -> Usage:
    ones = np.ones(len(LATENTS))
    return Usage(LATENTS, kl_nats=np.array([3.0, 2.0, 0.0, 4.0, 1.0, 0.5]), low=-2.0 * ones, high=2.0 * ones)
