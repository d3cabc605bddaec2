"""Traversals as pictures: a tile per position for a slider, and one strip figure of them all."""

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from pipeline.analysis.grid import Columns, Row, draw_grid, scene_legend
from pipeline.analysis.lettering import FAINT, INK, font, text_width, write
from pipeline.analysis.scene import CAPTIONS, Picture, scene_pictures, scene_tile
from pipeline.analysis.traversal import Traversal
from pipeline.data.modality import MODALITIES, DatasetInfo

TILE_PX = 256
STRIP_PX = 64

_PAPER, _RAIL, _MARK = (255, 255, 255), (216, 219, 223), (51, 88, 196)
_PAD = 8


def draw_tiles(traversal: Traversal, kl_nats: float, note: str, info: DatasetInfo) -> Iterator[Image.Image]:
    """The first anchor at each position: RGB, depth, labels and a caption, two by two.

    Args:
        traversal: To draw.
        kl_nats: Mean KL of the latent.
        note: What it does, or tells about.
        info: The dataset.
    """
    for step in range(len(traversal.positions)):
        tile = Image.new("RGB", (TILE_PX, TILE_PX), _PAPER)
        pictures = scene_pictures(traversal.views[0], step, info)
        half = TILE_PX // 2
        for name, corner in zip(MODALITIES, ((0, 0), (half, 0), (0, half)), strict=True):
            if name in pictures:
                tile.paste(_fitted(pictures[name], half), corner)
        _caption(tile, traversal, step, kl_nats, note)
        yield tile


def draw_overview(traversals: Sequence[Traversal], info: DatasetInfo, title: str) -> Image.Image:
    """A row per latent, first anchor; a column per position, in each modality."""
    modalities = list(scene_pictures(traversals[0].views[0], 0, info))
    steps = len(traversals[0].positions)
    ends = ("low", *[""] * (steps - 2), "high")
    rows = [
        Row(
            tuple(
                scene_tile(traversal.views[0], step, name, info)
                for name in modalities
                for step in range(steps)
            ),
            label=_row_label(traversal),
        )
        for traversal in traversals
    ]
    columns = [Columns(ends, CAPTIONS[name]) for name in modalities]
    return draw_grid(rows, columns, scene_legend(info), title, tile_px=STRIP_PX)


def _row_label(traversal: Traversal) -> str:
    return f"{traversal.latent.title}   {traversal.effect.name}"


def _caption(tile: Image.Image, traversal: Traversal, step: int, kl_nats: float, note: str) -> None:
    """Lower right: which latent, where it stands between its ends, how much it is used, what it does."""
    brush = ImageDraw.Draw(tile)
    left, top, right = TILE_PX // 2 + _PAD, TILE_PX // 2 + _PAD, TILE_PX - _PAD
    positions = traversal.positions
    write(brush, (left, top), traversal.latent.title, font(15, bold=True), anchor="la")
    value = f"{positions[step]:+.2f}".replace("-", "\N{MINUS SIGN}")
    write(brush, (left, top + 22), f"{value}   ({step + 1} of {len(positions)})", font(11), anchor="la")
    rail = top + 44
    brush.rectangle((left, rail, right, rail + 2), fill=_RAIL)
    centre = left + round(step / (len(positions) - 1) * (right - left))
    brush.ellipse((centre - 4, rail - 3, centre + 4, rail + 5), fill=_MARK)
    write(brush, (left, top + 55), f"KL {kl_nats:.2f} nats", font(11), anchor="la", fill=FAINT)
    for line, text in enumerate(_wrapped(note, right - left)[:3]):
        write(brush, (left, top + 72 + 14 * line), text, font(11), anchor="la", fill=INK)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, font(11)) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _fitted(picture: Picture, side_px: int) -> Image.Image:
    """At exactly this side: crisp when enlarged, averaged when reduced."""
    image = Image.fromarray(picture)
    method = Image.Resampling.NEAREST if image.width <= side_px else Image.Resampling.BOX
    return image.resize((side_px, side_px), method)
