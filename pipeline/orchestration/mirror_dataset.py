"""The dataset a run made or reads, as MLflow records it: name, digest, where it lies, what it holds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.orchestration.ledger import Record
from pipeline.orchestration.mirror_files import peek
from pipeline.orchestration.stage import StageName

USES: dict[StageName, str] = {
    "shard": "made",
    "train": "training",
    "evaluate": "testing",
    "adapt": "adaptation",
    "analyze": "testing",
    "synthesize": "reference",
}
"""What a stage does with the dataset: the context that MLflow's pages show and search."""

DIGEST_LENGTH = 36
"""MLflow refuses longer ones; the whole of it stands in the profile."""

PROFILE_LENGTH = 16_000


@dataclass(frozen=True)
class Lineage:
    """A dataset as MLflow knows it: the same for every run that reads it.

    Attributes:
        name: What the source is, and how large pictures are.
        digest: Of its description and its index, and so of everything in it.
        source: Its directory, relative to the root.
        schema: Name and type per modality.
        profile: Counts and what else sums it up.
    """

    name: str
    digest: str
    source: str
    schema: dict[str, Any]
    profile: dict[str, Any]


def lineage(run_directory: Path, record: Record) -> Lineage | None:
    """The dataset that a stage made or reads; None when it is not known (yet).

    Args:
        run_directory: `<root>/<name>`.
        record: Of the stage.
    """
    made = record if record.stage == "shard" else _made(run_directory, record.inputs.get("dataset", ""))
    if made is None or not made.digest:
        return None
    source = f"datasets/{made.key[:16]}"
    try:
        text = (run_directory.parent / source / "dataset.json").read_text(encoding="utf-8")
        return _described(made.digest, source, json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Lineage(made.key[:16], made.digest[:DIGEST_LENGTH], source, {}, {"sha256": made.digest})


def _made(run_directory: Path, digest: str) -> Record | None:
    """The record of the dataset with this digest, also when the run has made another since."""
    for place in (run_directory / "shard", *sorted(run_directory.glob("shard.*"))):
        record = peek(place)
        if record and digest and record.digest == digest:
            return record
    return None


def _described(digest: str, source: str, described: dict[str, Any]) -> Lineage:
    side = described["image_size"]
    types = {"rgb": f"uint8 ({side}, {side}, 3)", "depth": f"float32 ({side}, {side}) metres"}
    types["seg"] = f"uint8 ({side}, {side}), {len(described['class_names'])} classes"
    columns = [{"name": name, "type": types[name], "required": False} for name in described["modalities"]]
    counts = described["counts"]
    profile = {"num_rows": sum(counts.values()), "sha256": digest, "samples": counts}
    told = ("quarantine", "class_names", "members", "depth", "depth_scale_m", "source")
    profile |= {name: described[name] for name in told}
    while len(json.dumps(profile)) > PROFILE_LENGTH:
        del profile[max(profile, key=lambda name: len(json.dumps(profile[name])))]
    kind = described["source"].get("kind", "dataset")
    return Lineage(f"{kind} {side} px", digest[:DIGEST_LENGTH], source, {"mlflow_colspec": columns}, profile)
