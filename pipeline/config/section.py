"""What every part of the config is made of: frozen sections, documented fields, common ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ModalityName = Literal["rgb", "depth", "seg"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


def without_effect(default: object) -> Any:
    """A field that changes speed or cadence but never a result, so it stays out of stage keys."""
    return Field(default=default, json_schema_extra={"affects_result": False})


class Section(BaseModel):
    """Frozen, no unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False, protected_namespaces=()
    )
