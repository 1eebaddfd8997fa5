"""Values that move along the clock, once, and then stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Generic, TypeVar

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
)

from distgen.core.config import Config

N = TypeVar("N", bound=float)


class Schedule(Config, Generic[N]):
    """A number that goes from `start` to `end` along half a cosine, and stays there."""

    # Docstrings of fields are looked for where a class is made, and a generic one is made anywhere.
    model_config = ConfigDict(use_attribute_docstrings=False)

    start: N = Field(description="Its value at the beginning of the run.")
    end: N = Field(description="Its value from `images` on.")
    images: PositiveInt = Field(description="Images seen over which it moves.")

    def at(self, images_seen: int) -> float:
        """The value at this point of the clock."""
        if images_seen >= self.images:
            return float(self.end)
        share = 0.5 * (1.0 - math.cos(math.pi * images_seen / self.images))
        return float(self.start + (self.end - self.start) * share)


def value_at(value: float | Schedule[float], images_seen: int) -> float:
    """What a number or a schedule is worth at this point of the clock; a number never moves."""
    return value.at(images_seen) if isinstance(value, Schedule) else value


def _form(value: object) -> str:
    return "schedule" if isinstance(value, Mapping | Schedule) else "number"


BY_FORM = Discriminator(_form)
"""Tells a plain number (tag `number`) from a `Schedule` (tag `schedule`), so that what is wrong
with one is not also said of the other."""

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]

ScheduledNonNegative = Annotated[
    Annotated[NonNegativeFloat, Tag("number")]
    | Annotated[Schedule[NonNegativeFloat], Tag("schedule")],
    BY_FORM,
]
ScheduledPositive = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[Schedule[PositiveFloat], Tag("schedule")],
    BY_FORM,
]
ScheduledImages = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[Schedule[PositiveFloat], Tag("schedule")],
    BY_FORM,
]
ScheduledDecayRate = Annotated[
    Annotated[DecayRate, Tag("number")] | Annotated[Schedule[DecayRate], Tag("schedule")],
    BY_FORM,
]
