import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
import torch

from nas_optuna.execution.retrain import TestReport as Report
from nas_optuna.execution.retrain import count_pairs, record, stored_report
from nas_optuna.report.confusion import Confusion
from nas_optuna.report.page import report
from nas_optuna.study.schema import LONGEST, StudyKey
from nas_optuna.study.storage import open_storage
from tests.report.test_page import add, made


def found(classes: int, seeds: int = 1) -> Report:
    """Of ten images of each class, eight are recognised and two are taken for the next class."""
    matrix = {(i, i): 8 for i in range(classes)} | {(i, (i + 1) % classes): 2 for i in range(classes)}
    names = tuple(f"<class {i}>" for i in range(classes))
    return Report("a", "r", "cpu", 1, 10 * classes, tuple(range(seeds)), (0.8,) * seeds, names, (matrix,) * seeds, 1.0)


@pytest.mark.parametrize("classes", [2, 100, 101])
def test_the_matrix_is_kept_whole_in_parts_that_every_storage_holds(tmp_path: Path, classes: int) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    for look in range(2):
        for _ in range(2):  # the second call repeats what was ended after the first
            assert record(study, replace(found(classes), seconds=float(look)), trial=3) == look
    kept_report = stored_report(study.user_attrs, 1)
    assert kept_report is not None
    assert len(kept_report.classes) == classes
    assert kept_report.confusions == found(classes).confusions
    assert study.user_attrs[StudyKey.RETRAINED][1]["majority"] == kept_report.majority == 1 / classes
    kept = [v for k, v in study.user_attrs.items() if "confusion" in k]
    assert max(len(json.dumps(value)) for value in kept) <= LONGEST
    assert stored_report(study.user_attrs, 2) is None


def test_no_look_is_lost_where_several_are_recorded_at_once(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(f"sqlite:///{tmp_path}/x.db", create=True))
    with ThreadPoolExecutor(8) as threads:
        looks = list(threads.map(lambda number: record(study, found(2), trial=number), range(8)))
    kept = study.user_attrs[StudyKey.RETRAINED]
    assert sorted(looks) == list(range(8))
    assert [kept[look]["trial"] for look in looks] == list(range(8))
    last = stored_report(study.user_attrs, 7)
    assert last is not None
    assert last.predictions == found(2).predictions


def test_a_study_of_an_earlier_release_has_none() -> None:
    earlier = stored_report({"nas_optuna:retrained": [{"mean": 0.5}]})
    assert earlier is not None
    assert earlier.predictions == {}
    assert stored_report({}) is None


def test_tens_of_thousands_of_classes_take_as_much_as_their_images() -> None:
    """A table of 50,000 classes would have 2,500,000,000 cells."""
    study, many = made(), found(50_000)
    labels = torch.arange(50_000).repeat(3)
    pairs = count_pairs(labels, labels.roll(50_000 + 1))
    assert len(pairs) == 50_000
    assert pairs[0, 49_999] == 3
    many = replace(many, confusions=(pairs,), classes=tuple(map(str, range(50_000))))
    record(study, many, trial=0)
    kept = stored_report(study.user_attrs)
    assert kept is not None
    assert kept.confusions == (pairs,)
    assert kept.to_dict()["confusion_triples"][0][0] == [0, 49_999, 3]
    assert Confusion.of(kept).accuracies()[0] == ("0", 0.0, 3, "49999 100.0%")


ALTERED = [[0, 2, 5], ["0", 1, 5], [-1, 0, 5], [0, -1, 5], [0, 1, -5], [0, 1, 0]]


@pytest.mark.parametrize(
    "cells", [{"cells": [1, 0, "x", 0]}, {"cells": [4, 0, -3, 0]}, *({"triples": each} for each in ALTERED), {}]
)
def test_an_altered_matrix_is_none(cells: dict[str, list[object]]) -> None:
    entry = {"mean": 0.5} | {f"{name}_parts": 1 for name in ("classes", *cells)}
    parts = {f"{StudyKey.CONFUSION}0:{name}:0": each for name, each in ({"classes": ["a", "b"]} | cells).items()}
    read = stored_report({StudyKey.RETRAINED: [entry]} | parts)
    assert read is not None
    assert (read.predictions, read.classes, read.majority) == ({}, (), None)


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_the_picture_is_well_formed_and_has_every_cell_that_counts(classes: int) -> None:
    matrix = found(classes)
    svg = Confusion(matrix.classes, matrix.predictions).svg()
    if classes < 1000:
        parser = HTMLParser()
        cells: list[str] = []
        parser.handle_starttag = lambda tag, attrs: cells.append(tag) if tag == "rect" else None  # type: ignore[method-assign]
        parser.feed(svg)
        assert len(cells) == 2 * classes + 1  # the diagonal, the mistakes, and the paper
        assert "&lt;class 0&gt; taken for &lt;class 1&gt;: 2 of 10" in svg
    assert len(svg) < 3e6


@pytest.mark.parametrize("classes", [10, 25, 60, 100, 200])
def test_names_beside_the_picture_do_not_overlap(classes: int) -> None:
    matrix = found(classes)
    svg = Confusion(matrix.classes, matrix.predictions).svg()
    rows = [float(y) for y in re.findall(r'<text class="end" x="[^"]*" y="([^"]*)"', svg)]
    assert min(below - above for above, below in pairwise(rows)) >= 13.9


def test_names_fit_beside_the_picture_and_move_no_number() -> None:
    wide, right = "画像分類のための名前と猫と犬", "נמר פרסי"
    svg = Confusion(["cat, narrow ii", wide, right], {(i, j): 1 for i in range(3) for j in range(3)}).svg()
    squeezed = re.findall(r'<text [^>]*textLength="105"[^>]*>([^<]*)<', svg)
    assert squeezed == [wide] * 2
    study = made()
    add(study, 0)
    record(study, replace(found(3), classes=("a\u200cb", "c", right)), trial=0)
    page = report(study)
    assert f"<bdi>{right}</bdi> 20.0%" in page
    assert "a\u200cb" in page


def test_the_report_says_what_was_taken_for_what() -> None:
    study = made()
    add(study, 0)
    record(study, found(3, seeds=2), trial=0)
    page = report(study)
    assert "&lt;class 0&gt; taken for &lt;class 1&gt;: 4 of 20" in page
    assert "&lt;class 2&gt;</td>" in page
    assert "sum of 2 seeds" in page
