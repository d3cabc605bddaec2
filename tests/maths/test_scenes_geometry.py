"""Pictures agree with the geometry they were made from, point by point."""

import numpy as np
import pytest

from pipeline.data.scenes.render import Picture, render
from pipeline.data.scenes.rooms import CLASS_NAMES, GRID, draw_rooms, factor_values, room, room_number
from pipeline.data.scenes.scene import CAPSULE, CUBE, CYLINDER, SHAPES, SPHERE, Scene
from pipeline.data.scenes.tabletop import CLASS_NAMES as TABLETOP_CLASSES
from pipeline.data.scenes.tabletop import tabletop

TOLERANCE_M = 5e-6
SIZE = 64


def back_project(scene: Scene, depth_m: np.ndarray) -> np.ndarray:
    """World coordinates of every pixel, in double precision, from depth and the camera alone."""
    size = len(depth_m)
    middle = (np.arange(size) + 0.5) * 2 / size - 1
    right, up = np.meshgrid(middle, -middle)
    camera = scene.camera
    ray = (
        np.array(camera.forward)
        + camera.half_width * right[..., None] * np.array(camera.right)
        + camera.half_width * up[..., None] * np.array(camera.up)
    )
    return np.array(camera.eye) + depth_m.astype(np.float64)[..., None] * ray


def rooms_with(shape: int, count: int = 12) -> list[Scene]:
    numbers = [n for n in draw_rooms(200, seed=3).tolist() if factor_values(n)[4] == shape]
    return [room(n, seed=3, nuisance=1.0) for n in numbers[:count]]


def seen(picture: Picture, classes: tuple[str, ...], name: str) -> np.ndarray:
    return picture.seg == classes.index(name)


def test_floor_pixels_lie_on_the_floor() -> None:
    for number in draw_rooms(40, seed=1).tolist():
        scene = room(number, seed=1, nuisance=1.0)
        picture = render(scene, SIZE)
        height = back_project(scene, picture.depth_m)[seen(picture, CLASS_NAMES, "floor"), 2]
        assert len(height) > 100
        assert np.abs(height).max() < TOLERANCE_M


def test_wall_pixels_lie_on_a_wall() -> None:
    for number in draw_rooms(40, seed=1).tolist():
        scene = room(number, seed=1, nuisance=1.0)
        picture = render(scene, SIZE)
        point = back_project(scene, picture.depth_m)[seen(picture, CLASS_NAMES, "wall")]
        distance = np.abs(np.abs(point[:, :2]) - scene.half_room).min(1)
        assert distance.max() < TOLERANCE_M
        assert (np.abs(point[:, :2]) < scene.half_room + TOLERANCE_M).all()
        assert (point[:, 2] > -TOLERANCE_M).all()


def test_table_pixels_lie_on_the_table_top() -> None:
    for number in range(20):
        scene = tabletop(number, seed=0, max_objects=6)
        assert scene.table is not None
        picture = render(scene, SIZE)
        point = back_project(scene, picture.depth_m)[seen(picture, TABLETOP_CLASSES, "table")]
        assert np.abs(point[:, 2] - scene.table.height).max() < TOLERANCE_M
        assert np.abs(point[:, 0]).max() < scene.table.half_x + TOLERANCE_M


def distance_to_surface(scene: Scene, point: np.ndarray) -> np.ndarray:
    """Signed distance to the first solid, from its textbook formula.

    Source: Quilez, "Distance functions" (iquilezles.org/articles/distfunctions).
    """
    solid = scene.solids[0]
    cosine, sine = np.cos(solid.yaw), np.sin(solid.yaw)
    x, y, z = (point - np.array(solid.centre)).T
    x, y = cosine * x + sine * y, cosine * y - sine * x
    if solid.shape == SPHERE:
        return np.sqrt(x**2 + y**2 + z**2) - solid.radius
    if solid.shape == CAPSULE:
        beyond = z - np.clip(z, -solid.half_height, solid.half_height)
        return np.sqrt(x**2 + y**2 + beyond**2) - solid.radius
    if solid.shape == CYLINDER:
        outside = np.stack([np.hypot(x, y) - solid.radius, np.abs(z) - solid.half_height])
    else:
        assert solid.shape == CUBE
        outside = np.stack([
            np.abs(x) - solid.radius,
            np.abs(y) - solid.radius,
            np.abs(z) - solid.half_height,
        ])
    return np.minimum(outside.max(0), 0) + np.linalg.norm(np.maximum(outside, 0), axis=0)


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_object_pixels_lie_on_the_object(shape: int) -> None:
    for scene in rooms_with(shape):
        picture = render(scene, SIZE)
        point = back_project(scene, picture.depth_m)[seen(picture, CLASS_NAMES, SHAPES[shape])]
        assert len(point) > 50
        # Where a ray grazes a curved surface, one unit in the last place moves the point along the ray.
        distance = np.abs(distance_to_surface(scene, point))
        assert np.quantile(distance, 0.95) < TOLERANCE_M
        assert distance.max() < 2e-4


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_rays_that_pass_the_object_miss_it(shape: int) -> None:
    """No room pixel's ray comes inside the object: marching along it never finds a negative distance."""
    for scene in rooms_with(shape, count=4):
        picture = render(scene, 32)
        eye = np.array(scene.camera.eye)
        end = back_project(scene, picture.depth_m)[picture.seg < 2]
        for fraction in np.linspace(0.05, 0.999, 60):
            assert distance_to_surface(scene, eye + fraction * (end - eye)).min() > -2e-3


def test_shadows_fall_where_the_object_hides_the_light() -> None:
    """A floor point is dark exactly where marching to the light meets the object."""
    number = room_number((0, 3, 6, 7, SPHERE, 7))
    scene = room(number, seed=0, nuisance=0.0)
    picture = render(scene, SIZE, antialias=False)
    floor = picture.seg == 0
    point = back_project(scene, picture.depth_m)[floor]
    light = np.array(scene.light.position)
    steps = np.linspace(0.01, 0.99, 400)
    nearest = np.min([distance_to_surface(scene, point + step * (light - point)) for step in steps], axis=0)
    ambient = scene.light.ambient * np.array(scene.floor_colour)
    is_dark = np.abs(picture.rgb[floor] - ambient).max(1) < 1e-5
    clear = np.abs(nearest) > 0.02
    assert is_dark[clear & (nearest < 0)].all()
    assert not is_dark[clear & (nearest > 0)].any()
    assert 10 < is_dark.sum() < 0.5 * floor.sum()


def test_the_object_never_touches_the_border() -> None:
    largest = 7
    for shape in range(4):
        for orientation in (0, 7, 14):
            for seed in range(15):
                scene = room(room_number((0, 0, 0, largest, shape, orientation)), seed=seed, nuisance=1.0)
                seg = render(scene, SIZE, antialias=False).seg
                border = np.concatenate([seg[0], seg[-1], seg[:, 0], seg[:, -1]])
                assert (border < 2).all(), (shape, orientation, seed)


def test_no_camera_sees_the_ceiling() -> None:
    """The highest ray of the lowest, farthest camera stays below a ceiling at 3.2 m."""
    for number in draw_rooms(60, seed=2).tolist():
        scene = room(number, seed=2, nuisance=1.0)
        assert back_project(scene, render(scene, SIZE, antialias=False).depth_m)[..., 2].max() < 3.2
    for number in range(30):
        scene = tabletop(number, seed=2, max_objects=6)
        assert back_project(scene, render(scene, SIZE, antialias=False).depth_m)[..., 2].max() < 3.2


def test_every_class_occurs() -> None:
    labels = {int(v) for n in draw_rooms(40, 0).tolist() for v in np.unique(render(room(n, 0, 1.0), 32).seg)}
    assert labels == set(range(len(CLASS_NAMES)))
    labels = {int(v) for n in range(40) for v in np.unique(render(tabletop(n, 0, 6), 32).seg)}
    assert labels == set(range(len(TABLETOP_CLASSES)))


def test_antialiasing_changes_only_colour_and_only_at_edges() -> None:
    scene = room(draw_rooms(1, 0).item(), seed=0, nuisance=1.0)
    sharp, smooth = render(scene, SIZE, antialias=False), render(scene, SIZE, antialias=True)
    np.testing.assert_array_equal(sharp.depth_m, smooth.depth_m)
    np.testing.assert_array_equal(sharp.seg, smooth.seg)
    changed = (sharp.rgb != smooth.rgb).any(-1)
    padded = np.pad(sharp.seg, 1, mode="edge")
    neighbours = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    edge = np.any([neighbour != sharp.seg for neighbour in neighbours], axis=0)
    assert changed.any()
    assert not (changed & ~edge).any()


def test_an_antialiased_edge_is_between_the_colours_it_joins() -> None:
    """Averaging 64 x 64 sub-samples of a pixel by brute force agrees with the four that are used."""
    scene = room(room_number((0, 5, 2, 7, CUBE, 3)), seed=0, nuisance=0.0)
    smooth = render(scene, 32, antialias=True).rgb
    brute = render(scene, 32 * 8, antialias=False).rgb.reshape(32, 8, 32, 8, 3).mean((1, 3))
    sharp = render(scene, 32, antialias=False).rgb
    edge = (smooth != sharp).any(-1)
    assert np.abs(smooth - brute)[edge].mean() < 0.5 * np.abs(sharp - brute)[edge].mean()


def test_the_grid_number_names_its_factors() -> None:
    for number in (0, 1, 14, 15, 479_999, 123_456):
        assert room_number(factor_values(number)) == number
    assert factor_values(GRID - 1) == (9, 9, 9, 7, 3, 14)
