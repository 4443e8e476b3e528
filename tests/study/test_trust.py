"""Whatever a stored study names, and however it spells it, nothing is imported without a yes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_optuna import Experiment, load_study
from nas_optuna.cli.options import MovedStudyOptions
from nas_optuna.cli.supernet import SupernetOptions, _prepare
from nas_optuna.data import SearchData
from nas_optuna.errors import NasOptunaError, SpecError, StudyError
from nas_optuna.objectives import parse_criterion
from nas_optuna.registry import importing_only
from nas_optuna.samplers import SAMPLERS
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import code_named
from nas_optuna.study.schema import FORMAT, StudyKey
from nas_optuna.training.fit import never
from tests.helpers import Command

URL = "sqlite:///nas-optuna.db"
SPELLINGS = [
    "evil.py:part",
    "evil:part",
    " evil.py:part ",
    "./evil.py:part",
    "evil.py:minimize",
    "evil:maximize",
    "evil.py:part:minimize",
    "evil:part:maximize",
    "minimize:evil.py:part",
    "maximize:evil:part",
    "evil.py:minimize*(macs/1M)^-0.07",
    "evil:part*(macs/1M)^-0.07",
    "evil.py:part:minimize * ( macs / 2M ) ^ -0.1",
    "minimize:evil.py*(params/1k)^-1",
    "evil.pkg:part",
    "pkg.evil:part.attribute",
    "evil.py",
    "folder:evil.py:part",
    "evil.py:part*(evil/1M)^-0.07",
    "évil.py:part",
]
SECTIONS = ("data", "space", "evaluator", "sampler", "pruner")


def _section(name: str) -> Callable[[dict[str, Any], str], None]:
    return lambda spec, text: spec.update({name: {"name": text}})


def _in(*path: str) -> Callable[[dict[str, Any], str], None]:
    def put(spec: dict[str, Any], text: str) -> None:
        for key in path[:-1]:
            spec = spec.setdefault(key, {})
        spec[path[-1]] = text

    return put


KEYS: dict[str, Callable[[dict[str, Any], str], None]] = {
    **{name: _section(name) for name in SECTIONS},
    "objectives": lambda spec, text: spec.update(objectives=["accuracy", text]),
    "the first objective": lambda spec, text: spec.update(objectives=[text, "accuracy"]),
    "limits": lambda spec, text: spec.update(limits={text: 1e6}),
    "search": lambda spec, text: spec.update(search={text: [1, 2]}),
    "fixed": lambda spec, text: spec.update(fixed={text: 1}),
    "supernet.strategy": _in("supernet", "strategy"),
    "latency.table": _in("latency", "table"),
    "latency.runtime": lambda spec, text: spec.update(latency={"runtime": text}, objectives=["accuracy", "latency_ms"]),
    "reference": lambda spec, text: spec.update(reference=text),
    "recipe.init": _in("recipe", "init"),
    "recipe.optimizer": _in("recipe", "optimizer"),
    "an option of the space": _in("space", "filters"),
    "an option of the sampler": _in("sampler", "prior"),
    "trackers": lambda spec, text: spec.update(trackers=[text]),
    "costs": lambda spec, text: spec.update(costs=[text]),
    "metrics": lambda spec, text: spec.update(metrics=[text]),
}


@pytest.fixture
def evil(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that code under any of the spellings' names would write."""
    written = place / "executed"
    text = f"open({str(written)!r}, 'w').close()\n"
    for name in ("evil.py", "évil.py", "pkg/evil.py", "evil.pkg.py"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    monkeypatch.syspath_prepend(str(place))
    return written


@pytest.mark.parametrize("key", KEYS)
def test_nothing_is_imported_without_a_yes(key: str, study: str, evil: Path, data: SearchData) -> None:
    stored = optuna.load_study(study_name=study, storage=URL)
    honest = stored.user_attrs["nas_optuna:spec"]
    given: dict[str, Any] = {} if key == "data" else {"images": lambda: data}  # which need not be read again and again
    for text in SPELLINGS:
        spec = copy.deepcopy(honest)
        KEYS[key](spec, text)
        stored.set_user_attr("nas_optuna:spec", spec)
        with suppress(NasOptunaError):
            MovedStudyOptions(study, URL).experiment(device="cpu", **given)
        assert not evil.exists(), (key, text)


@pytest.mark.parametrize("arguments", [("run", "--trials", 1), ("retrain",), ("export", "--out", "made"), ("draw",)])
@pytest.mark.parametrize("text", ["evil.py:minimize*(macs/1M)^-0.07", "evil:part:minimize", "evil.py:part"])
def test_no_command_imports_a_stored_objective(
    arguments: tuple[object, ...], text: str, command: Command, study: str, evil: Path
) -> None:
    stored = optuna.load_study(study_name=study, storage=URL)
    stored.set_user_attr("nas_optuna:spec", stored.user_attrs["nas_optuna:spec"] | {"objectives": [text]})
    result = command(*arguments)
    assert (result.code, "--trust" in result.err) == (2, True), result.err
    assert not evil.exists()


def test_no_supernet_training_imports_the_strategy_of_a_stored_result(study: str, evil: Path) -> None:
    stored = optuna.load_study(study_name=study, storage=URL)
    wanted = SupernetOptions(budget=0, set_=["supernet.short_trainings=0"], device="cpu")
    _, training = _prepare(MovedStudyOptions(study, URL), wanted, never)
    training.train()
    sound = stored.user_attrs[StudyKey.SUPERNET]
    assert training.finished() is not None
    for settings in ({"strategy": "evil.py:part"}, {"strategy": "evil:part"}, {"epochs": "evil"}):
        stored.set_user_attr(StudyKey.SUPERNET, sound | {"settings": sound["settings"] | settings})
        assert training.finished() is None
    assert not evil.exists()


@pytest.mark.parametrize(
    ("objective", "code"),
    [
        ("evil.py:minimize*(macs/1M)^-0.07", ["metric evil.py:minimize"]),
        ("evil:part:minimize", ["metric evil:part:minimize"]),
        (" evil.py:part", ["metric evil.py:part"]),
        ("rmse:minimize", []),
        ("accuracy*(macs/1M)^-0.07", []),
        ("maximize:params", []),
    ],
)
def test_what_is_asked_about_is_what_is_imported(objective: str, code: list[str]) -> None:
    assert code_named(StudySpec.from_dict({"objectives": ["accuracy", objective]})) == code
    if code:
        with importing_only([]), pytest.raises(SpecError, match="nobody was asked about it"):
            parse_criterion(objective)


@pytest.mark.parametrize("key", [*SECTIONS, "supernet.strategy", "latency.runtime", "reference"])
def test_every_part_that_can_be_code_is_asked_about(key: str) -> None:
    spec: dict[str, Any] = {}
    KEYS[key](spec, "mine.py:part")
    (asked,) = code_named(StudySpec.from_dict(spec))
    assert asked.endswith(" mine.py:part")


def test_no_registry_imports_what_was_not_agreed_to(evil: Path) -> None:
    with importing_only(["sampler another.py:part"]), pytest.raises(SpecError, match="nobody was asked"):
        SAMPLERS.find("evil.py:part")
    assert not evil.exists()
    with importing_only(["sampler evil.py:part"]), pytest.raises(SpecError, match="unknown name in"):
        SAMPLERS.find("evil.py:part")
    assert evil.exists(), "a yes is a yes, and the test would have seen it"


def test_a_block_lets_in_nothing_that_the_one_around_it_does_not() -> None:
    with importing_only(["sampler mine.py:part"]), importing_only(["sampler evil.py:part"]):
        for name in ("evil.py:part", "mine.py:part"):
            with pytest.raises(SpecError, match="nobody was asked"):
                SAMPLERS.find(name)


def test_a_yes_to_a_loaded_study_is_none_to_what_it_names_later(study: str, evil: Path) -> None:
    loaded, options = load_study(study, URL), MovedStudyOptions(study, URL)
    spec = loaded.study.user_attrs["nas_optuna:spec"]
    loaded.study.set_user_attr("nas_optuna:spec", spec | {"space": {"name": "evil.py:part"}})
    uses = [lambda: loaded.space, loaded.draw, loaded.network, lambda: Experiment.of_study(loaded)]
    for use in uses:
        with pytest.raises(SpecError, match="nobody was asked about it"):
            use()
    with pytest.raises(StudyError, match="--trust"):
        options.experiment(device="cpu")
    for named in ({"reference": "evil.py:part"}, {"latency": {"runtime": "evil.py:part"}}):
        loaded.study.set_user_attr("nas_optuna:spec", spec | named)
        with pytest.raises(SpecError, match="nobody was asked about it"):
            Experiment.of_study(loaded).run(loaded, trials=1)
    loaded.study.set_user_attr("nas_optuna:spec", spec | {"space": {"name": "evil.py:part"}})
    loaded.report()
    assert loaded._repr_svg_() is None
    assert not evil.exists()


def test_a_storage_without_a_url_needs_a_yes_each_time(place: Path) -> None:
    for _ in range(2):
        storage = optuna.storages.InMemoryStorage()
        made = optuna.create_study(storage=storage, study_name="s")
        spec = StudySpec.from_dict({"sampler": {"name": "own.py:part"}})
        made.set_user_attr(StudyKey.SPEC, spec.to_dict())
        made.set_user_attr(StudyKey.FORMAT, FORMAT)
        with pytest.raises(StudyError, match=r"names code .*own\.py:part.*trust=True"):
            load_study("s", storage)
        assert load_study("s", storage, trust=True).study.study_name == "s"
