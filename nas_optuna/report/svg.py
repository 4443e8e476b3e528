"""What our pictures share: a frame, and text that is never markup and short enough for its place."""

from __future__ import annotations

import xml.sax.saxutils as xml


def clean(text: str) -> str:
    """Without control characters, which XML refuses even where they are escaped."""
    return "".join(c for c in text if c.isprintable())


def escaped(text: str, room: int = 200) -> str:
    """Text that is no markup, shortened in its middle where it is too long."""
    text = clean(text)
    if len(text) > room:
        half = max(1, (room - 1) // 2)
        text = f"{text[:half]}…{text[-half:]}"
    return xml.escape(text)


def attribute(text: str) -> str:
    """Text as the quoted value of an attribute."""
    return xml.quoteattr(clean(text))


def framed(name: str, label: str, width: float, height: float, style: str, parts: str) -> str:
    """One self-contained SVG element on a sheet of paper; its style is for the CSS class `name`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{name}" role="img" aria-label={attribute(label)}'
        f' width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<style>{style}</style><rect class="paper" width="100%" height="100%" rx="8"/>{parts}</svg>'
    )
