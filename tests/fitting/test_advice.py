"""What a fit says of better ways than a search."""

import re

import pytest
import torch

from nas_optuna.data import ImageSet
from nas_optuna.fitting import spec
from nas_optuna.fitting.spec import FEW, advice, spec_for


@pytest.mark.parametrize(
    ("may_begin", "channels", "images", "side", "model", "told"),
    [
        (True, 3, 100, 16, None, True),
        (True, 3, FEW, 16, None, False),
        (True, 1, 100, 16, None, False),
        (True, 3, 100, 15, None, False),  # too small for one
        (False, 3, 100, 16, None, False),  # none would be considered
        (True, 3, 100, 16, "resnet18", False),  # it has been considered
    ],
)
def test_a_pretrained_network_is_named_where_pictures_are_few(
    monkeypatch: pytest.MonkeyPatch,
    may_begin: bool,
    channels: int,
    images: int,
    side: int,
    model: str | None,
    told: bool,
) -> None:
    monkeypatch.setattr(spec, "at_hand", lambda: model)
    pictures = ImageSet(torch.zeros(images, channels, 2, 2, dtype=torch.uint8), torch.arange(images) % 2, ("a", "b"))
    lines = "\n".join(advice(spec_for("digits", space="backbone") if may_begin else None, pictures, side))
    assert bool(re.search("pip install .*, and fit into another folder", lines)) == bool(lines) == told
