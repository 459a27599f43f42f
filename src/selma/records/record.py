"""The base class of all records, and the type of texts in them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from selma.texts import printable


class Record(BaseModel):
    """A frozen record; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


Chance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A probability."""


def _cleaned(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


OutsideText = Annotated[str, BeforeValidator(_cleaned)]
"""A text that somebody else wrote: a record holds what can be read of it (`texts.printable`)."""
