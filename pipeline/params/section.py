"""The base of every section of params.yaml, and the types of its values."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Integers = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]  # DVC cannot interpolate lists


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, flags, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML reads yes, no, on and off as booleans, and Python counts a boolean as a number
            raise ValueError("YAML reads this as true or false, and no key takes that; put a word in quotes")
        return value
