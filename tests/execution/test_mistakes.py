import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from nas_optuna.data import ImageSet
from nas_optuna.execution.retrain import MAX_PICTURES, MAX_SIDE, Mistake, find_mistakes
from nas_optuna.study.schema import LONGEST
from tests.helpers import Command


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 40), (3, 200), (4, 30)])
def test_mistakes_are_the_wrong_pictures_and_fit_into_any_storage(channels: int, side: int) -> None:
    noise = torch.randint(0, 256, (60, channels, side, side), dtype=torch.uint8)  # which is hardest to make small
    images = ImageSet(noise, torch.arange(60) % 3, ("a", "b", "c"))
    predicted = [int(label) if i % 2 else (int(label) + 1) % 3 for i, label in enumerate(images.labels)]
    found = find_mistakes(images, predicted)
    assert 0 < len(found) <= MAX_PICTURES
    for one in found:
        assert one.predicted == (one.label + 1) % 3
        assert len(str(one)) < LONGEST
        assert Mistake.parse(str(one), 3) == one
        assert max(Image.open(io.BytesIO(base64.b64decode(one.picture))).size) == min(side, MAX_SIDE)


def test_every_class_shows_some_of_its_mistakes() -> None:
    labels = torch.tensor([0] * 50 + [1] * 50 + [2])  # sorted, as a folder's are
    images = ImageSet(torch.zeros(101, 1, 8, 8, dtype=torch.uint8), labels, ("a", "b", "c"))
    found = find_mistakes(images, [1] * 50 + [2] * 50 + [0])
    shown = [one.label for one in found]
    assert (shown.count(0), shown.count(1), shown.count(2)) == (12, 11, 1)


def test_no_mistakes_are_no_pictures() -> None:
    images = ImageSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("a", "b"))
    assert find_mistakes(images, [0, 1, 0]) == ()


@pytest.mark.parametrize(
    "text", ["", "0 1", "0 9 AAAA", "-1 0 AAAA", "0 1 ><script>", "x y z", '0 1 AA" onerror="x', "9" * 5000 + " 1 AAAA"]
)
def test_what_somebody_altered_is_no_mistake(text: str) -> None:
    assert Mistake.parse(text, 2) is None


def test_a_report_shows_what_the_retrained_network_gets_wrong(command: Command, study: str, place: Path) -> None:
    assert command("retrain").code == 0
    assert command("report").code == 0
    page = (place / "report.html").read_text("utf-8")
    assert "Pictures that it gets wrong" in page
    assert 0 < page.count('<img src="data:image/webp;base64,') <= MAX_PICTURES
