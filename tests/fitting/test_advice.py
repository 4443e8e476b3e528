"""What a fit says of better ways than a search."""

import pytest
import torch

from nas_optuna.data import ImageSet
from nas_optuna.fitting import spec
from nas_optuna.fitting.spec import FEW, advice, spec_for


@pytest.mark.parametrize(
    ("space", "channels", "images", "model", "told"),
    [
        (None, 3, 100, None, True),
        (None, 3, FEW, None, False),
        (None, 1, 100, None, False),
        ("backbone", 3, 100, None, False),
        (None, 3, 100, "resnet18", False),  # it has been considered
    ],
)
def test_a_pretrained_network_is_named_where_pictures_are_few(
    monkeypatch: pytest.MonkeyPatch, space: str | None, channels: int, images: int, model: str | None, told: bool
) -> None:
    monkeypatch.setattr(spec, "at_hand", lambda: model)
    pictures = ImageSet(torch.zeros(images, channels, 2, 2, dtype=torch.uint8), torch.arange(images) % 2, ("a", "b"))
    lines = list(advice(spec_for("digits", space=space), pictures))
    assert [("pip install" in line) for line in lines] == [True] * told
