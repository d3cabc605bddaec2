"""Where samples come from: what a source has, and how to load some of its samples in any process."""

from pipeline.config.data import Data
from pipeline.config.sources import FolderSource, RoomsSource, TabletopSource
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.sources.folder import open_folder
from pipeline.data.sources.scenes import open_rooms, open_tabletop

__all__ = ["Catalogue", "open_source"]


def open_source(config: Data) -> Catalogue:
    """What the configured source has.

    Raises:
        InputError: If the config does not fit the source, or its files are not there.
    """
    match config.source:
        case RoomsSource() as source:
            return open_rooms(config, source)
        case TabletopSource() as source:
            return open_tabletop(config, source)
        case FolderSource() as source:
            return open_folder(config, source)
