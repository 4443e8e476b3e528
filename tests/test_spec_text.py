"""Text files as any editor writes them, and values that no spec can mean."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from nas_optuna import ConvSpace
from nas_optuna.errors import NasOptunaError, SpecError, shown
from nas_optuna.files import read_text
from nas_optuna.spec import StudySpec
from nas_optuna.spec_text import read_toml, to_toml, with_overrides
from nas_optuna.study.trial_queue import read_architectures

TEXT = 'objectives = ["accuracy"]\n[data]\nname = "folder:für Tom"\n'


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
)
def test_a_spec_is_read_as_any_editor_writes_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(content)
    assert read_text(file) == TEXT
    assert StudySpec.from_toml(file).data.name == "folder:für Tom"


def test_a_queue_is_read_as_any_editor_writes_it(tmp_path: Path, space: ConvSpace) -> None:
    file = tmp_path / "first.json"
    file.write_bytes(json.dumps(["f4k3s1-f8k5s1"]).encode("utf-16"))
    assert [str(a) for a in read_architectures(file, space)] == ["f4k3s1-f8k5s1"]
    file.write_bytes(codecs.BOM_UTF8 + b"f4k3s1-f8k5s1\r\nf4k7s1-f4k3s1\r\n")
    assert [str(a) for a in read_architectures(file, space)] == ["f4k3s1-f8k5s1", "f4k7s1-f4k3s1"]


def test_other_encodings_are_refused_by_their_name(tmp_path: Path, space: ConvSpace) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(TEXT.encode("cp1252"))
    with pytest.raises(SpecError, match="not text in UTF-8; save it in this encoding"):
        read_toml(file)
    with pytest.raises(NasOptunaError, match="not text in UTF-8; save it in this encoding"):
        read_architectures(file, space)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        (r'"folder:C:\Users\tom"', r"folder:C:\Users\tom"),
        (r'"folder:C:\temp\new"', r"folder:C:\temp\new"),
        (r"'folder:C:\temp\new'", r"folder:C:\temp\new"),
        (r"folder:C:\Users\tom", r"folder:C:\Users\tom"),
        (r'"npz:\\host\share\x.npz"', r"npz:\\host\share\x.npz"),
        ('"folder:/a b"', "folder:/a b"),
        ("folder:/a b", "folder:/a b"),
        ('"say \\"x\\""', 'say "x"'),
    ],
)
def test_windows_paths_stand_for_themselves(override: str, value: str) -> None:
    assert StudySpec().override([f"data.name={override}"]).data.name == value


def test_numbers_with_commas_are_a_list() -> None:
    assert with_overrides({}, ["space.filters=16,32"]) == {"space": {"filters": [16, 32]}}
    assert with_overrides({}, ["objectives=accuracy,macs"]) == {"objectives": "accuracy,macs"}


def test_true_and_false_may_be_written_as_in_python() -> None:
    given = ["sampler.multivariate=False", "recipe.flip=True", "space.head='True'"]
    expected = {"sampler": {"multivariate": False}, "recipe": {"flip": True}, "space": {"head": "True"}}
    assert with_overrides({}, given) == expected


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"recipe": {"epochs": 10**5000}}, "a whole number of more than 64 bits"),
        ({"recipe": {"learning_rate": float("nan")}}, "not a finite number"),
        ({"recipe": {"learning_rate": float("inf")}}, "not a finite number"),
        ({"data": {"name": "a\0b"}}, "a control character"),
        ({"x" * 60_000: 1}, "unknown key 'xxx"),
    ],
)
def test_values_that_no_spec_can_mean_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_dict(values)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [r"C:\Users\me", r"C:\data", r"D:\new\u12"])
def test_a_windows_path_in_double_quotes_has_its_remedy(tmp_path: Path, path: str) -> None:
    (tmp_path / "s.toml").write_text(f'[data]\nname = "folder:{path}"\n', encoding="utf-8")
    with pytest.raises(SpecError, match="so write a path in single quotes"):
        read_toml(tmp_path / "s.toml")


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000, "a = 1" + "0" * 5000, "a = 2020-01-01", "a." * 5000 + "a = 1", "a = {b = " * 2000],
)
def test_files_that_no_spec_can_be_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_toml(file)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"recipe": {"mix": 3}}, "recipe.mix: it must be at most 1, or 'auto', got 3"),
        ({"recipe": {"flip": "maybe"}}, "recipe.flip: it must be true or false, or 'auto', got 'maybe'"),
        ({"recipe": {"shift": -2, "mix": 3}}, "recipe.shift: it must be at least 0, or 'auto', got -2"),
        ({"recipe": {"input_size": [4, "a"]}}, "recipe.input_size.1: it must be a whole number, got 'a'"),
        ({"recipe": {"input_size": [0, 5]}}, "recipe.input_size.0: it must be at least 1, got 0"),
        ({"recipe": {"epochs": 0, "batch_size": 0}}, "recipe.epochs: it must be at least 1, got 0"),
        ({"supernet": {"latency_power": 2}}, 'supernet: latency_power belongs to latency_loss = "fbnet"'),
        ({"sampler": 5}, "sampler: it must be a section of settings, got 5"),
    ],
)
def test_a_value_of_several_kinds_is_refused_by_its_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        StudySpec.from_dict(values)
    assert str(caught.value).endswith(says)


@pytest.mark.parametrize("text", ["[" * 100_000, "2020-01-01", "{b = " * 2000, "nan"])
def test_assignments_that_no_spec_can_hold_are_refused(text: str) -> None:
    for override in (f"space.x={text}", f"{text}=1", text):
        with pytest.raises(SpecError) as caught:
            StudySpec().override([override])
        assert len(str(caught.value)) < 500


def test_a_value_is_shown_in_a_few_characters_whatever_it_is() -> None:
    for value in ("x" * 10**6, nested(100_000), 10**5000, {"a": nested(50)}, ["x" * 100] * 100, b"\0" * 1000, "a\nb"):
        assert len(shown(value)) <= 80
        assert "\n" not in shown(value)
    assert shown("tpe") == "'tpe'"


def test_a_spec_is_written_as_the_toml_that_it_is_read_from(tmp_path: Path) -> None:
    spec = StudySpec.from_dict(
        {
            "data": {"name": 'folder:für "Tom" \\ x'},
            "space": {"name": "macro", "widths": [8, 16]},
            "objectives": ["accuracy", "macs"],
            "limits": {"macs": 2e6},
            "fixed": {"conv1.stride": 1, "naïve 名前 😀": "שלום"},
            "recipe": {"weight_decay": 1e-5, "flip": True},
        }
    )
    (tmp_path / "study.toml").write_text(to_toml(spec.to_dict()), encoding="utf-8")
    assert StudySpec.from_dict(read_toml(tmp_path / "study.toml")) == spec
