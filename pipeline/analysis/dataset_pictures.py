"""The pictures of a dataset as files."""

from pathlib import Path

from PIL import Image

from pipeline.analysis.contact_sheet import ROWS, SIDE_BY_SIDE, draw_contact_sheet
from pipeline.analysis.dataset import Survey, Watcher, survey, survey_metrics
from pipeline.analysis.dataset_charts import draw_classes, draw_depth
from pipeline.analysis.dataset_samples import Damage, chosen_rows, read_samples
from pipeline.analysis.grid import save_png
from pipeline.data.shards.dataset import read_info

PICTURES = "pictures"
CONTACT_SHEET, CLASSES, DEPTH = "contact_sheet.png", "classes.png", "depth.png"

FEWEST, MOST, ONE_IN = 200, 1000, 8
"""Samples of a new dataset that are looked at: one in so many, within limits; decoding all takes long."""


def leave_pictures(directory: Path, watcher: Watcher) -> dict[str, float]:
    """Draw a new dataset into its `pictures/` and sum it up as metrics.

    Args:
        directory: The dataset.
        watcher: Shows how far we are.

    Raises:
        InputError: If the directory holds no dataset.
    """
    samples = sum(read_info(directory).counts.values())
    found = survey(directory, min(max(samples // ONE_IN, FEWEST), MOST), watcher)
    draw_survey(found, directory / PICTURES)
    return survey_metrics(found)


def draw_survey(found: Survey, directory: Path) -> list[Path]:
    """Write what there is to see; the files that were written.

    Raises:
        InputError: If the index cannot be read.
    """
    if not sum(found.pixels.samples.values()):
        return []  # none could be read, or all are behind a URL
    pictures: dict[str, Image.Image | None] = {
        CONTACT_SHEET: _contact_sheet(found),
        CLASSES: draw_classes(found),
        DEPTH: draw_depth(found),
    }
    written = []
    for name, picture in pictures.items():
        if picture is not None:
            save_png(directory / name, picture)
            written.append(directory / name)
    return written


def _contact_sheet(found: Survey) -> Image.Image | None:
    info = found.description.info
    wanted = dict.fromkeys(found.index.splits, SIDE_BY_SIDE * ROWS)
    rows = chosen_rows(found.index, wanted)
    read = read_samples(found.directory, found.description, rows)
    samples = [item for item in read if not isinstance(item, Damage)]
    if not samples:
        return None
    title = f"{len(found.index.split_of):,} samples, {info.image_size} x {info.image_size} pixels"
    span_m = found.pixels.depth.span_m if found.pixels.depth else None
    return draw_contact_sheet(info, samples, span_m, title)
