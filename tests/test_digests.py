"""Stored studies hold these digests, so that they stay as they were."""

import hashlib

import pytest

from nas_optuna.digests import hex_digest, seed_from


@pytest.mark.parametrize("digits", [6, 12, 16, 32])
def test_digests_are_those_of_the_algorithm(digits: int) -> None:
    assert hex_digest("conv", digits) == hashlib.blake2b(b"conv", digest_size=digits // 2).hexdigest()
    assert hex_digest(b"conv", digits, "sha256") == hashlib.sha256(b"conv").hexdigest()[:digits]
    assert hex_digest([b"co", memoryview(b"nv")], digits) == hex_digest("conv", digits)


def test_seeds_are_the_first_bytes() -> None:
    assert seed_from("0/1", 6) == int.from_bytes(hashlib.sha256(b"0/1").digest()[:6], "little")
