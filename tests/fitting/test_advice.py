"""What a fit says of better ways than a search."""

import pytest
import torch

from nas_optuna.data import ImageSet
from nas_optuna.fitting.spec import FEW, advice, spec_for


@pytest.mark.parametrize(
    ("space", "channels", "images", "told"),
    [(None, 3, 100, True), (None, 3, FEW, False), (None, 1, 100, False), ("backbone", 3, 100, False)],
)
def test_a_pretrained_network_is_named_where_pictures_are_few(
    space: str | None, channels: int, images: int, told: bool
) -> None:
    pictures = ImageSet(torch.zeros(images, channels, 2, 2, dtype=torch.uint8), torch.arange(images) % 2, ("a", "b"))
    lines = list(advice(spec_for("digits", space=space), pictures))
    assert [("--space backbone" in line) for line in lines] == [True] * told
