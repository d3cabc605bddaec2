"""Pictures of a scene: colour, planar depth and labels, one scene at a time.

A picture is a function of its scene alone, so it cannot depend on what is rendered beside it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int, UInt8

from pipeline.data.scenes.raycast import WALL, Component, Hits, Rays, blocked, cast
from pipeline.data.scenes.scene import CHECKS, PLAIN, Camera, Scene, Vector

SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
"""Where an antialiased pixel is sampled, from its middle and in pixels."""

_BEFORE_THE_POINT = 0.999
_FALLOFF_SQ = 6.0
_CHECKS_PER_M = 1.6
_STRIPES_PER_M = 1.43


@dataclass(frozen=True)
class Picture:
    """What an ideal camera sees.

    Attributes:
        rgb: Colour in 0..1.
        depth_m: Planar z of the pixel's middle.
        seg: Class of the pixel's middle.
    """

    rgb: Float32[np.ndarray, "height width 3"]
    depth_m: Float32[np.ndarray, "height width"]
    seg: UInt8[np.ndarray, "height width"]


def render(scene: Scene, size: int, antialias: bool = True) -> Picture:
    """Cast one ray through the middle of every pixel, and four more where surfaces meet.

    Only colour is antialiased: depth and labels are those of the pixel's middle.
    """
    right, up = _pixel_middles(size)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rays = _camera_rays(scene.camera, right, up)
        hits = cast(scene, rays)
        rgb = _shade(scene, rays, hits)
        if antialias:
            edge = _edges(hits.surface.reshape(size, size))
            rgb[edge] = _supersampled(scene, right[edge], up[edge], size)
    labels = np.array(scene.surface_labels, np.uint8)
    return Picture(
        rgb=np.minimum(rgb, 1).reshape(size, size, 3),
        depth_m=hits.t.reshape(size, size),
        seg=labels[hits.surface].reshape(size, size),
    )


@lru_cache(maxsize=4)
def _pixel_middles(size: int) -> tuple[Component, Component]:
    """Position to the right and up, in -1..1, of every pixel in reading order."""
    middle = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    return np.tile(middle, size), np.repeat(-middle, size)


def _camera_rays(camera: Camera, right: Component, up: Component) -> Rays:
    right, up = right * camera.half_width, up * camera.half_width
    x, y, z = (
        forward + right * along_right + up * along_up
        for forward, along_right, along_up in zip(camera.forward, camera.right, camera.up, strict=True)
    )
    return Rays(camera.eye, x, y, z, 1 + right * right + up * up)


def _edges(surface: UInt8[np.ndarray, "height width"]) -> Int[np.ndarray, " edge"]:
    """Pixels that touch a pixel of another surface, above, below, left or right."""
    edge = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return np.flatnonzero(edge)


def _supersampled(scene: Scene, right: Component, up: Component, size: int) -> Float32[np.ndarray, "ray 3"]:
    """Mean colour over the sub-pixels, each limited to what a sensor can hold."""
    pixel = 2 / size
    rays = _camera_rays(
        scene.camera,
        np.concatenate([right + x * pixel for x, _ in SUBPIXELS]),
        np.concatenate([up + y * pixel for _, y in SUBPIXELS]),
    )
    rgb = np.minimum(_shade(scene, rays, cast(scene, rays)), 1)
    first, second, third, fourth = rgb.reshape(len(SUBPIXELS), -1, 3)
    return ((first + second) + (third + fourth)) * 0.25


def _shade(scene: Scene, rays: Rays, hits: Hits) -> Float32[np.ndarray, "ray 3"]:
    """Colour: ambient and point light with shadows, and a highlight on solids.

    Source: the highlight is Blinn 1977, "Models of light reflection", with exponent 32.
    """
    light = scene.light
    x, y, z = (start + hits.t * d for start, d in zip(rays.origin, (rays.x, rays.y, rays.z), strict=True))
    from_light = (x - light.position[0], y - light.position[1], z - light.position[2])
    distance_sq = from_light[0] ** 2 + from_light[1] ** 2 + from_light[2] ** 2
    to_wall = np.where(hits.faces_x, np.abs(from_light[0]), np.abs(from_light[1]))
    is_wall = hits.surface == WALL
    toward_light = np.where(is_wall, to_wall, -from_light[2])
    faces_up = np.where(is_wall, np.float32(0), np.float32(1))
    for hit in hits.solids.values():
        toward_light[hit.ray] = _dot(hit.normal, tuple(-part[hit.ray] for part in from_light))
        faces_up[hit.ray] = hit.normal[2]

    toward_light = np.maximum(toward_light, 0)
    toward_light[blocked(scene, Rays(light.position, *from_light, distance_sq), _BEFORE_THE_POINT)] = 0
    cosine = toward_light / np.sqrt(distance_sq)
    shade = light.ambient * (0.8 + 0.2 * faces_up) + (2 * _FALLOFF_SQ * light.power) * cosine / (
        _FALLOFF_SQ + distance_sq
    )
    if scene.pattern != PLAIN:
        shade *= _pattern(scene, x, y, is_wall, hits)
    rgb = np.take(np.array(scene.surface_colours, np.float32), hits.surface, axis=0)
    rgb *= shade[:, None]
    for hit in hits.solids.values():
        lit = cosine[hit.ray] > 0
        rgb[hit.ray] += (light.specular * lit * _highlight(rays, hit.ray, hit.normal, from_light))[:, None]
    return rgb


def _pattern(scene: Scene, x: Component, y: Component, is_wall: np.ndarray, hits: Hits) -> Component:
    """What the pattern leaves of a room surface's colour; 1 on solids."""
    if scene.pattern == CHECKS:
        row = np.floor(np.where(is_wall, x + y, x) * _CHECKS_PER_M)
        column = np.floor(np.where(is_wall, np.float32(0), y) * _CHECKS_PER_M)
        half = (row + column) * 0.5
        dark = 2 * (half - np.floor(half))
    else:
        phase = np.where(is_wall, x + y, x) * _STRIPES_PER_M
        phase -= np.floor(phase) + 0.5
        dark = 0.5 + 4 * phase - 8 * phase * np.abs(phase)
    left = 1 - scene.contrast * dark
    for hit in hits.solids.values():
        left[hit.ray] = 1
    return left


def _highlight(
    rays: Rays, ray: Int[np.ndarray, " hit"], normal: tuple[Component, ...], from_light: tuple[Component, ...]
) -> Component:
    """Cosine between the normal and the half-way direction, to the power of 32."""
    view = tuple(part[ray] for part in (rays.x, rays.y, rays.z))
    light = tuple(part[ray] for part in from_light)
    view_length, light_length = np.sqrt(_dot(view, view)), np.sqrt(_dot(light, light))
    half = tuple(-v / view_length - l / light_length for v, l in zip(view, light, strict=True))
    cosine = np.maximum(_dot(normal, half) / np.sqrt(_dot(half, half)), 0)
    for _ in range(5):
        cosine = cosine * cosine
    return cosine


def _dot(first: tuple[Component, ...], second: tuple[Component, ...]) -> Component:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]
