"""Names, formats and directions of figures: metrics, costs and objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Direction = Literal["maximize", "minimize"]

LARGEST = 1e30
"""Figures are smaller, or infinite: an error of 1e33 is that of a training that has exploded."""


@dataclass(frozen=True)
class Quantity:
    """A figure that describes itself.

    Attributes:
        name: Its name in a spec.
        direction: ``"maximize"`` or ``"minimize"``.
        ideal: The best possible value; None if there is no bound.
        worst: The worst possible value; None if there is no bound.
        label: Its name for people; by default `name`.
        unit: Unit of its values; empty for a count or a share.
        format: Python's format specification of a value below 1,000; ``""`` is four significant digits.

    Examples:
        >>> Quantity("latency_ms", "minimize", label="latency", unit="ms").heading
        'latency (ms)'
    """

    name: str
    direction: Direction = "maximize"
    ideal: float | None = None
    worst: float | None = None
    label: str = ""
    unit: str = ""
    format: str = ""

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return self.direction == "maximize"

    @property
    def sign(self) -> float:
        """The factor that makes a value a loss: -1 if larger is better, else 1."""
        return -1.0 if self.maximize else 1.0

    @property
    def heading(self) -> str:
        """Label and unit, for a table or an axis."""
        return f"{self.label or self.name} ({self.unit})" if self.unit else self.label or self.name

    def number(self, value: float) -> str:
        """A value with sensible precision, without its unit.

        Examples:
            >>> Quantity("macs").number(1234567), Quantity("latency_ms", format=".3g").number(0.51234)
            ('1,234,567', '0.512')
            >>> Quantity("mse", format=".4f").number(3.21e-05), Quantity("latency_ms", format=".3g").number(999.7)
            ('3.21e-05', '1,000')
        """
        if 0 < abs(value) < 1e-3:  # of which four decimals would show next to nothing
            return f"{value:.3g}"
        text = f"{value:{self.format or '.4g'}}"
        if abs(value) >= 1000 or text.endswith("e+03") or (not self.format and float(value).is_integer()):
            return f"{value:,.0f}"
        return text

    def brief(self, value: float) -> str:
        """A value in three or four digits, for a narrow table.

        Examples:
            >>> Quantity("macs").brief(1234567), Quantity("accuracy").brief(float("inf"))
            ('1.23M', 'inf')
        """
        return count(value) if 1000 <= abs(value) < math.inf else self.number(value)

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def brief_text(self, value: float) -> str:
        """A brief value with its unit, or with its label if it has none.

        Examples:
            >>> Quantity("flash", unit="bytes").brief_text(94_400), Quantity("macs", label="MACs").brief_text(1234567)
            ('94.4k bytes of flash', '1.23M MACs')
        """
        unit = f"bytes of {self.name}" if self.unit == "bytes" else self.unit  # several costs are in bytes
        return f"{self.brief(value)} {unit or self.label or self.name}"


def whole(number: int) -> str:
    """A whole number of any size.

    Examples:
        >>> whole(9216), whole(1_234_567_890), whole(10**5000)
        ('9,216', '1.2e+9', '1.0e+5000')
    """
    # No float is above 1.8e308, and Python writes no integer of more than 4,300 digits.
    return f"{number:,}" if abs(number) < 1e9 else f"{Decimal(number):.1e}"


def plural(number: int, noun: str) -> str:
    """E.g. ``"1 epoch"``, ``"1,200 epochs"``."""
    return f"{whole(number)} {noun}{'' if number == 1 else 's'}"


def count(number: float) -> str:
    """A count with three digits and a suffix.

    Examples:
        >>> count(1_234_567), count(999_499), count(999_500), count(1.2e12), count(1e20)
        ('1.23M', '999k', '1M', '1.2T', '1e+20')
    """
    sizes = ((9.995e14, 1.0, ""), (9.995e11, 1e12, "T"), (9.995e8, 1e9, "G"), (9.995e5, 1e6, "M"), (1e3, 1e3, "k"))
    for least, size, suffix in sizes:  # as three digits round
        if abs(number) >= least:
            return f"{number / size:.3g}{suffix}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    """A time for a person.

    Examples:
        >>> duration(8.13), duration(59.97), duration(200), duration(3599.7), duration(7199)
        ('8.1 s', '1 min 00 s', '3 min 20 s', '1 h 00 min', '2 h 00 min')
    """
    if seconds < 59.95:  # as one decimal rounds
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
