"""Pictures of a scene: colour, planar depth and labels, one scene at a time.

A picture is a function of its scene alone, so it cannot depend on what is rendered beside it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from pipeline.data.scenes.raycast import WALL, Hits, PerRay, Points, Rays, blocked, cast, dot, points
from pipeline.data.scenes.scene import CHECKS, PLAIN, Camera, Scene

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
    middle = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rays = _camera_rays(scene.camera, middle[None, :], -middle[:, None])
        hits = cast(scene, rays)
        rgb = np.minimum(_shade(scene, rays, hits), 1)
        if antialias:
            edge = _edges(hits.surface.reshape(size, size))
            smooth = _supersampled(scene, middle[edge % size], -middle[edge // size], 2 / size)
            for channel, smooth_channel in zip(rgb, smooth, strict=True):
                channel[edge] = smooth_channel
    labels = np.array(scene.surface_labels, np.uint8)
    return Picture(
        rgb=np.stack(list(rgb), axis=1).reshape(size, size, 3),
        depth_m=hits.t.reshape(size, size),
        seg=labels[hits.surface].reshape(size, size),
    )


def _camera_rays(camera: Camera, right: Float32[np.ndarray, "..."], up: Float32[np.ndarray, "..."]) -> Rays:
    """Rays through points of the picture, -1..1 to the right and up; the two broadcast."""
    right, up = right * camera.half_width, up * camera.half_width
    forward, along_right, along_up = (
        np.array(axis, np.float32).reshape(3, *(1,) * right.ndim)
        for axis in (camera.forward, camera.right, camera.up)
    )
    direction = (forward + up * along_up) + right * along_right
    return Rays(camera.eye, direction.reshape(3, -1), ((1 + up * up) + right * right).ravel())


def _edges(surface: UInt8[np.ndarray, "height width"]) -> Int[np.ndarray, " edge"]:
    """Pixels that touch a pixel of another surface, above, below, left or right."""
    edge = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return np.flatnonzero(edge)


def _supersampled(scene: Scene, right: PerRay, up: PerRay, pixel: float) -> Points:
    """Mean colour over the sub-pixels, each limited to what a sensor can hold."""
    rays = _camera_rays(
        scene.camera,
        np.concatenate([right + x * pixel for x, _ in SUBPIXELS]),
        np.concatenate([up + y * pixel for _, y in SUBPIXELS]),
    )
    rgb = np.minimum(_shade(scene, rays, cast(scene, rays)), 1).reshape(3, len(SUBPIXELS), -1)
    return ((rgb[:, 0] + rgb[:, 1]) + (rgb[:, 2] + rgb[:, 3])) * np.float32(1 / len(SUBPIXELS))


def _shade(scene: Scene, rays: Rays, hits: Hits) -> Points:
    """Colour: ambient and point light with shadows, and a highlight on solids.

    Source: the highlight is Blinn 1977, "Models of light reflection", with exponent 32.
    """
    light = scene.light
    from_light = points(rays, hits.t, light.position)
    wall = hits.surface == WALL
    wall_x, wall_y = wall & hits.faces_x, wall & ~hits.faces_x
    faces_up = (~wall).astype(np.float32)
    toward_light = np.abs(from_light[0]) * wall_x + np.abs(from_light[1]) * wall_y - from_light[2] * faces_up
    for seen in hits.solids.values():
        toward_light[seen.ray] = -dot(seen.normal, from_light.take(seen.ray, axis=1))
        faces_up[seen.ray] = seen.normal[2]

    distance_sq = dot(from_light, from_light)
    toward_light[blocked(scene, Rays(light.position, from_light, distance_sq), _BEFORE_THE_POINT)] = 0
    cosine = np.maximum(toward_light, 0) / np.sqrt(distance_sq)
    shade = cosine * (2 * _FALLOFF_SQ * light.power) / (distance_sq + _FALLOFF_SQ)
    shade += faces_up * (light.ambient * 0.2) + light.ambient * 0.8
    if scene.pattern != PLAIN:
        shade *= _pattern(scene, rays, hits, wall)

    rgb = _albedo(scene, hits) * shade
    for seen in hits.solids.values():
        view, light_ray = rays.direction.take(seen.ray, axis=1), from_light.take(seen.ray, axis=1)
        highlight = _highlight(view, light_ray, seen.normal) * (cosine.take(seen.ray) > 0) * light.specular
        for channel in rgb:
            channel[seen.ray] += highlight
    return rgb


def _albedo(scene: Scene, hits: Hits) -> Points:
    """What share of red, green and blue each ray's surface reflects."""
    colours = np.array(scene.surface_colours, np.float32)[:, :, None]
    albedo = (hits.surface == 0) * colours[0]
    for number in range(1, scene.first_solid):
        albedo += (hits.surface == number) * colours[number]
    for number, seen in hits.solids.items():
        for channel, colour in zip(albedo, scene.surface_colours[number], strict=True):
            channel[seen.ray] = colour
    return albedo


def _pattern(scene: Scene, rays: Rays, hits: Hits, wall: Bool[np.ndarray, " _"]) -> PerRay:
    """What the pattern leaves of a room surface's colour; 1 on solids.

    Floor and table are patterned along x and y, walls along x + y, that is, horizontally.
    """
    x, y, _ = points(rays, hits.t, (0.0, 0.0, 0.0))
    along = x + y * wall
    if scene.pattern == CHECKS:
        column = np.floor(y * ~wall * _CHECKS_PER_M)
        half = (np.floor(along * _CHECKS_PER_M) + column) * 0.5
        dark = (half - np.floor(half)) * 2
    else:
        phase = along * _STRIPES_PER_M
        phase -= np.floor(phase) + 0.5
        dark = phase * (4 - np.abs(phase) * 8) + 0.5
    left = 1 - dark * scene.contrast
    for seen in hits.solids.values():
        left[seen.ray] = 1
    return left


def _highlight(view: Points, light: Points, normal: Points) -> PerRay:
    """Cosine between the normal and the half-way direction, to the power of 32."""
    half = view / np.sqrt(dot(view, view)) + light / np.sqrt(dot(light, light))
    cosine = np.maximum(-dot(normal, half), 0)
    power = cosine * cosine / dot(half, half)
    for _ in range(4):
        power = power * power
    return power
