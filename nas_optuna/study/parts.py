"""Long lists, stored in numbered parts, because a study's attribute may have only so many characters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.study import Study

from nas_optuna.study.schema import LONGEST


def in_parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Lists whose JSON every storage can hold."""
    part: list[Any] = []
    length = 2
    for item in items:
        more = len(json.dumps(item)) + 2
        if part and length + more > LONGEST:
            yield part
            part, length = [], 2
        part.append(item)
        length += more
    yield part


def write_parts(study: Study, prefix: str, items: Sequence[Any]) -> int:
    """Store a list in as many study attributes as it needs, and return how many; `prefix` gets their numbers."""
    parts = list(in_parts(items))
    for i, part in enumerate(parts):
        study.set_user_attr(f"{prefix}{i}", part)
    return len(parts)


def read_parts(attributes: Mapping[str, Any], prefix: str, count: int) -> list[Any]:
    """The list that was stored in `count` parts."""
    return [item for i in range(count) for item in attributes[f"{prefix}{i}"]]
