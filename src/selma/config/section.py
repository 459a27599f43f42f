"""What every section of the settings is: frozen, with no unknown key and no number that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen; unknown keys, NaN and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        # Without this, "steps: yes" would quietly be one step.
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation not in (bool, bool | None):
                raise ValueError(f"{name} must not be true or false")
        return values


def mistake(found: dict[str, Any]) -> str:
    key = ".".join(map(str, found["loc"])) or "config"
    if found["type"] == "extra_forbidden":
        return f"  {key}: is not a setting; see src/selma/config for those that are"
    if found["type"] == "union_tag_not_found":
        return f"  {key}: needs `kind`, which says what the other settings mean"
    return f"  {key}: {found['msg']} (came: {found['input']!r:.80})"


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
