"""Where samples come from: what a source has, and how to load some of its samples in any process."""

from pipeline.config.containers import (
    BopSource,
    HypersimSource,
    Nyuv2Source,
    ParquetSource,
    WebdatasetSource,
)
from pipeline.config.data import Data
from pipeline.config.existing import DatasetSource
from pipeline.config.sources import FolderSource, RoomsSource, TabletopSource
from pipeline.data.sources.bop import open_bop
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.sources.folder import open_folder
from pipeline.data.sources.hypersim import open_hypersim
from pipeline.data.sources.nyuv2 import open_nyuv2
from pipeline.data.sources.parquet import open_parquet
from pipeline.data.sources.scenes import open_rooms, open_tabletop
from pipeline.data.sources.webdataset import open_webdataset

__all__ = ["Catalogue", "open_source"]


def open_source(config: Data) -> Catalogue:
    """What the configured source has.

    Raises:
        InputError: If the config does not fit the source, or its files are not there.
        ValueError: If the source is a dataset already.
    """
    match config.source:
        case RoomsSource() as source:
            return open_rooms(config, source)
        case TabletopSource() as source:
            return open_tabletop(config, source)
        case FolderSource() as source:
            return open_folder(config, source)
        case WebdatasetSource() as source:
            return open_webdataset(config, source)
        case ParquetSource() as source:
            return open_parquet(config, source)
        case Nyuv2Source() as source:
            return open_nyuv2(config, source)
        case BopSource() as source:
            return open_bop(config, source)
        case HypersimSource() as source:
            return open_hypersim(config, source)
        case DatasetSource():
            raise ValueError("an existing dataset is adopted as it is, not read sample by sample")
