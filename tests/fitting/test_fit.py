"""From pictures and seconds to a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nas_optuna as nas
from nas_optuna.data import load_images
from nas_optuna.errors import DataError, SpecError, StudyError
from nas_optuna.fitting.spec import spec_for
from nas_optuna.study.results import REFERENCE
from nas_optuna.study.schema import StudyKey, TrialKey
from nas_optuna.study.storage import open_storage
from nas_optuna.study.studies import study_names
from tests.fitting.conftest import SECONDS, Limited, fit_limited
from tests.helpers import Command


def test_a_fit_searches_trains_tests_and_exports(limited: Limited) -> None:
    fitted, digits = limited.fitted, load_images("digits", train=False)
    assert any("training" in line for line in limited.said), "each step is said"
    assert fitted.report.mean > 0.3
    assert fitted.report.test_images == len(digits)
    assert len(repr(fitted.report)) < 1000, "it shows neither pictures nor matrices as text"
    assert repr(fitted).startswith(f"<Fitted: test accuracy {fitted.report.mean:.4f} on ")
    assert len(repr(fitted)) < 500, "nor its network"
    assert {path.name for path in fitted.folder.iterdir()} >= {"network", "report.html", "search.db"}
    right = [a == digits.classes[b] for a, b in zip(fitted.predict(digits.images), digits.labels.tolist(), strict=True)]
    assert np.mean(right) == pytest.approx(fitted.report.mean, abs=0.01)
    assert fitted.study.trials[0].user_attrs[TrialKey.ORIGIN] == REFERENCE


def test_a_fit_uses_its_time_and_ends(limited: Limited) -> None:
    assert SECONDS / 3 < limited.fitted.seconds < 3 * SECONDS * limited.load, "on a busy machine, too"


def test_a_repeated_fit_trains_nothing(limited: Limited) -> None:
    again, fitted = fit_limited(limited.fitted.folder), limited.fitted
    assert again.report.accuracies == fitted.report.accuracies
    assert again.report.confusions == fitted.report.confusions
    assert again.facts == fitted.facts
    assert len(again.study.trials) == len(fitted.study.trials)
    assert len(again.study.user_attrs[StudyKey.RETRAINED]) == 1


def test_settings_in_a_section_are_taken_for_the_data_that_is_given() -> None:
    data = spec_for("mnist", overrides=["data={validation_fraction=0.3}"]).data
    assert (data.name, data.validation_fraction) == ("mnist", 0.3)


def test_another_fit_does_not_go_into_the_same_folder(limited: Limited) -> None:
    with pytest.raises(StudyError, match="a study of its own, in another folder"):
        fit_limited(limited.fitted.folder, max_params=1000)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("nothing/here", DataError),
        ("digts", SpecError),
        (3, DataError),
        ([(np.zeros((8, 8)), 0), (np.zeros((9, 9)), 1), (np.zeros((8, 8)), 1)], DataError),
    ],
)
def test_what_holds_no_pictures_is_refused(tmp_path: Path, data: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        nas.fit(data, SECONDS, tmp_path)


@pytest.mark.parametrize("within", ["soon", "5s", "-10m", "10y", "1e9h"])
def test_no_time_is_one_line(command: Command, within: str) -> None:
    result = command("fit", "digits", f"--within={within}")
    assert result.code == 2
    assert "--within needs" in result.err.splitlines()[-1]


def test_arrays_tensors_and_datasets_become_the_same_images(tmp_path: Path) -> None:
    from nas_optuna.fitting.inputs import name_of

    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    labels = np.arange(30) % 2
    given = [
        (images, labels),
        (torch.from_numpy(images), torch.from_numpy(labels)),
        [(torch.from_numpy(image), int(label)) for image, label in zip(images, labels, strict=True)],
    ]
    found = [nas.load_data(name_of(data, tmp_path / str(i))).fingerprint for i, data in enumerate(given)]
    assert len(set(found)) == 1


def in_folder(folder: Path, classes: int, each: int, size: int, mode: str = "RGB") -> Path:
    """Pictures that each have the colour of their class, with noise."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for number in range(each):
            pixels = np.clip(rng.normal(0, 25, (size, size, 3)) + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"class{label}" / f"{number}.png")
    return folder


def test_twenty_grey_pictures_give_a_network(tmp_path: Path) -> None:
    photos = in_folder(tmp_path / "photos", classes=2, each=10, size=16, mode="L")
    small = ("space.width=8", "space.stages=1")
    found = nas.fit(photos, 10, tmp_path / "model", overrides=small, say=lambda line: None)
    assert set(found.predict(np.zeros((1, 16, 16), np.uint8))) <= {"class0", "class1"}


@pytest.mark.parametrize(
    ("classes", "each", "said"),
    [(0, 0, "at least two are needed"), (1, 8, "at least two are needed"), (2, 1, "add images")],
)
def test_too_few_pictures_are_one_line(command: Command, tmp_path: Path, classes: int, each: int, said: str) -> None:
    (tmp_path / "photos").mkdir()
    in_folder(tmp_path / "photos", classes, each, size=8)
    result = command("fit", str(tmp_path / "photos"), "--within", "12s", "--out", str(tmp_path / "model"))
    assert result.code == 2
    assert said in result.err.splitlines()[-1]


def test_a_fit_tells_of_a_damaged_test_picture_before_it_has_a_study_of_these_images(tmp_path: Path) -> None:
    photos = in_folder(tmp_path / "photos/train", classes=2, each=10, size=16, mode="L").parent
    file = in_folder(photos / "test", classes=2, each=2, size=16, mode="L") / "class0" / "0.png"
    file.write_bytes(file.read_bytes()[:60])
    small = ("space.width=8", "space.stages=1")
    for _ in range(2):
        with pytest.raises(DataError, match=r"0.png is not an image that can be read .*; repair or delete it$"):
            nas.fit(photos, 10, tmp_path / "model", overrides=small, say=lambda line: None)
        assert not study_names(open_storage(f"sqlite:///{tmp_path}/model/search.db"))
