"""Bounds that settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0, le=86_400)]
"""Seconds, up to a day."""
Count = Annotated[int, Field(ge=1, le=10_000_000)]
