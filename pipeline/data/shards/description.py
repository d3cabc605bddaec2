"""`dataset.json`: what a dataset directory holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.data.modality import DatasetInfo, DepthStatistics, Factor
from pipeline.data.shards.tar import Shard
from pipeline.durable import write_text
from pipeline.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """All of `dataset.json`.

    Attributes:
        info: What the data is.
        members: Member suffix per modality (`rgb.npy`).
        shards: The tars by name.
        lossy: Modalities whose stored pixels are not quite those of the source.
    """

    info: DatasetInfo
    members: dict[str, str]
    shards: dict[str, Shard]
    lossy: tuple[str, ...] = ()


def write_description(path: Path, description: Description) -> None:
    """Write `dataset.json`: whole or not at all, and on the disk."""
    info = description.info
    stored = {
        "format": FORMAT,
        "modalities": list(info.modalities),
        "members": description.members,
        "lossy": list(description.lossy),
        "class_names": list(info.class_names),
        "image_size": info.image_size,
        "counts": info.counts,
        "factors": [{"name": factor.name, "values": list(factor.values)} for factor in info.factors],
        "depth": None if info.depth is None else asdict(info.depth),
        "depth_unit": "m",
        "depth_scale_m": info.depth_scale_m,
        "source": info.source,
        "quarantine": info.quarantine,
        "shards": {name: asdict(shard) for name, shard in description.shards.items()},
    }
    write_text(path, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def read_description(path: Path) -> Description:
    """Read `dataset.json`.

    Raises:
        InputError: If it is missing, or is not what this version writes.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise InputError(
                f"{path}: format {stored['format']}, but this version reads {FORMAT}; write the dataset again"
            )
        info = DatasetInfo(
            modalities=tuple(stored["modalities"]),
            class_names=tuple(stored["class_names"]),
            image_size=stored["image_size"],
            counts=stored["counts"],
            factors=tuple(Factor(factor["name"], tuple(factor["values"])) for factor in stored["factors"]),
            depth=None if stored["depth"] is None else DepthStatistics(**stored["depth"]),
            depth_scale_m=stored["depth_scale_m"],
            source=stored["source"],
            quarantine=stored["quarantine"],
        )
        shards = {name: Shard(**shard) for name, shard in stored["shards"].items()}
        return Description(info, stored["members"], shards, tuple(stored.get("lossy", ())))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {path.parent} is not a dataset directory") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a dataset description ({error!r}); write the dataset again") from None
