"""Base of all sections of the configuration tree."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: frozen, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
