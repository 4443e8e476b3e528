"""Digests that identify content: in stored studies, checkpoints, file names and seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal


def hex_digest(
    content: str | bytes | Iterable[bytes | memoryview],
    digits: int = 16,
    algorithm: Literal["blake2b", "sha256"] = "blake2b",
) -> str:
    """A hexadecimal digest of content.

    Studies store them, so each caller must keep its algorithm and its length forever.

    Examples:
        >>> hex_digest("conv", 12, "sha256")
        '2ec3e47dcf05'
    """
    content = content.encode() if isinstance(content, str) else content
    made = hashlib.sha256() if algorithm == "sha256" else hashlib.blake2b(digest_size=digits // 2)
    for piece in [content] if isinstance(content, bytes) else content:
        made.update(piece)
    return made.hexdigest()[:digits]


def seed_from(text: str, size: int) -> int:
    """A seed of `size` bytes from a text, equal on every machine and in every release.

    Examples:
        >>> seed_from("0/1", 6) == seed_from("0/1", 6) != seed_from("0/2", 6)
        True
    """
    return int.from_bytes(bytes.fromhex(hex_digest(text, 2 * size, "sha256")), "little")


def seed_for(*parts: int | str) -> int:
    """A 31-bit seed for one draw, from e.g. the study's seed and the trial's number."""
    return seed_from("/".join(map(str, parts)), 4) >> 1
