"""A dataset that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.config.section import PositiveFloat, Section, without_effect


class DatasetSource(Section):
    """A dataset directory that Triptych wrote, here or behind a URL; nothing of it is written again."""

    kind: Literal["dataset"]
    path: str = Field(json_schema_extra={"affects_result": False})
    """The directory, or a URL that fsspec knows (s3, gs, https, hf). Moving it changes nothing, other
    samples do."""
    cache: Annotated[Path, AfterValidator(Path.expanduser)] | None = without_effect(None)
    """Where copies of remote tars lie; null: `~/.cache/triptych/shards`."""
    cache_gib: PositiveFloat = without_effect(50.0)
    """How large all copies together may become; those longest unused go first."""

    @property
    def is_remote(self) -> bool:
        """Whether it is behind a URL."""
        return "://" in self.path
