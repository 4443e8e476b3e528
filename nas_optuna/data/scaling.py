"""What the pixels of a whole data set hold together, which decides how they become 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas_optuna.errors import DataError

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the cameras and scanners whose values lie in 16-bit files."""


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest pixel value of some images; `whole` where their type is one of whole numbers."""

    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, pixels: np.ndarray) -> ValueRange:
        """The range of an array; a `DataError` where it is unknown which value is white."""
        if pixels.dtype.kind not in "biuf":
            raise DataError(f"its pixels are of type {pixels.dtype}; numbers are needed, best uint8")
        low, high, whole = float(pixels.min(initial=0)), float(pixels.max(initial=0)), pixels.dtype.kind != "f"
        understood = "0 … 65535" if whole else "0 … 1 or 0 … 255"
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"its pixels hold numbers that are not finite; {understood} is understood")
        if low < 0 or high > (65535 if whole else 255):
            raise DataError(f"its pixels lie in {low:g} … {high:g}, and only {understood} is understood; scale them")
        return cls(low, high, whole)

    @property
    def white(self) -> int:
        """The value that becomes 255."""
        if not self.whole:
            return 1 if self.high <= 1 else 255
        return int(2 ** next(bits for bits in _DEPTHS if self.high < 2**bits) - 1)

    @property
    def description(self) -> str:
        """``12-bit values scaled to 0 … 255``; empty where nothing is scaled."""
        if not self.whole:
            return "fractions of 0 … 1 scaled to 0 … 255" if self.white == 1 else "fractions of 0 … 255 rounded"
        return "" if self.white == 255 else f"{self.white.bit_length()}-bit values scaled to 0 … 255"
