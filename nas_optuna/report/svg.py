"""What our pictures share: a frame, and text that is never markup and short enough for its place."""

from __future__ import annotations

import xml.sax.saxutils as xml

from nas_optuna.errors import printable, shortened


def escaped(text: str, room: int = 200) -> str:
    """Text that is no markup, shortened in its middle where it is too long."""
    return xml.escape(shortened(printable(text), room))  # XML refuses control characters even where they are escaped


def attribute(text: str) -> str:
    """Text as the quoted value of an attribute."""
    return xml.quoteattr(printable(text))


def framed(name: str, label: str, width: float, height: float, style: str, parts: str) -> str:
    """One self-contained SVG element on a sheet of paper; its style is for the CSS class `name`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" aria-label={attribute(label)}'
        f' width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<style>{style}</style><rect class="paper" width="100%" height="100%" rx="8"/>{parts}</svg>'
    )
