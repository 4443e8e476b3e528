"""Pixels of any number type as uint8: by the range of a whole data set, never of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas_optuna.errors import DataError

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the cameras and scanners whose values lie in 16-bit files."""


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest pixel value of some images.

    Attributes:
        low: The smallest.
        high: The largest.
        whole: Whether the type is one of whole numbers.
    """

    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, pixels: np.ndarray) -> ValueRange:
        """The range of an array.

        Raises:
            DataError: The values are not numbers, not finite, or outside of what can be scaled.
        """
        if pixels.dtype.kind not in "biuf":
            raise DataError(f"its pixels are of type {pixels.dtype}; numbers are needed, best uint8")
        low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
        found = cls(low, high, pixels.dtype.kind != "f")
        found.require_scalable()
        return found

    def __or__(self, other: ValueRange | None) -> ValueRange:
        """The range of both together."""
        if other is None:
            return self
        return ValueRange(min(self.low, other.low), max(self.high, other.high), self.whole)

    def require_scalable(self) -> None:
        """Refuse values of which it is unknown which one is white.

        Raises:
            DataError: Saying what is understood.
        """
        understood = "0 … 1 or 0 … 255" if not self.whole else "0 … 65535"
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise DataError(f"its pixels hold numbers that are not finite; {understood} is understood")
        if self.low < 0 or self.high > (65535 if self.whole else 255):
            raise DataError(
                f"its pixels lie in {self.low:g} … {self.high:g}, and only {understood} is understood; scale them"
            )

    @property
    def white(self) -> int:
        """The value that becomes 255."""
        if not self.whole:
            return 1 if self.high <= 1 else 255
        return int(2 ** next(bits for bits in _DEPTHS if self.high < 2**bits) - 1)

    @property
    def description(self) -> str:
        """``0 … 4095 scaled to 0 … 255``; empty where nothing is scaled."""
        if not self.whole:
            return "fractions of 0 … 1 scaled to 0 … 255" if self.white == 1 else "fractions of 0 … 255 rounded"
        return "" if self.white == 255 else f"{self.white.bit_length()}-bit values scaled to 0 … 255"
