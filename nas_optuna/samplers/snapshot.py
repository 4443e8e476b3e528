"""Arrays kept in a study's system attributes, in pieces that every storage can hold; nothing is unpickled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from optuna.study import Study

from nas_optuna.digests import hex_digest
from nas_optuna.study.optuna_internals import study_system_attributes
from nas_optuna.study.transactions import set_study_system_attributes

CHUNK = 2000
"""Characters in one attribute; some databases hold no more than 2,046."""

SLOTS = 2
"""Snapshots are written in turn to so many places, so that one is whole while another is being written."""


def save(study: Study, name: str, count: int, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep `arrays` unless a snapshot of at least `count` trials is there."""
    headers = _headers(study, name)
    if any(header["count"] >= count for header in headers.values()):
        return
    slot = min(range(SLOTS), key=lambda s: headers.get(s, {"count": -1})["count"])
    data = safetensors.numpy.save(arrays)
    text = base64.b64encode(data).decode()
    chunks = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    pieces = {f"{name}:{slot}:{i}": chunk for i, chunk in enumerate(chunks)}
    # The header comes last. Its digest tells pieces that two processes mixed, or that only half arrived.
    header = {"count": count, "chunks": len(chunks), "sha256": hex_digest(data, 64, "sha256")}
    set_study_system_attributes(study, pieces | {f"{name}:{slot}": json.dumps(header)})


def load(study: Study, name: str) -> Iterator[dict[str, NDArray[Any]]]:
    """Every snapshot that is whole, the one of the most trials first."""
    attributes = study_system_attributes(study)
    headers = _headers(study, name)
    for slot in sorted(headers, key=lambda s: -headers[s]["count"]):
        pieces = [attributes.get(f"{name}:{slot}:{i}", "") for i in range(headers[slot]["chunks"])]
        try:
            data = base64.b64decode("".join(pieces), validate=True)
            if hex_digest(data, 64, "sha256") == headers[slot]["sha256"]:
                yield safetensors.numpy.load(data)
        except (ValueError, safetensors.SafetensorError):
            continue


def _headers(study: Study, name: str) -> dict[int, dict[str, Any]]:
    attributes = study_system_attributes(study)
    return {slot: json.loads(attributes[f"{name}:{slot}"]) for slot in range(SLOTS) if f"{name}:{slot}" in attributes}


def fingerprint(*parts: object) -> NDArray[np.uint8]:
    """32 bytes that differ whenever the parts' JSON does; an array, so that a snapshot can hold it."""
    return np.frombuffer(bytes.fromhex(hex_digest(json.dumps(parts), 64, "sha256")), np.uint8)
