import html
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nas_optuna.cli.results import print_ranking
from nas_optuna.report.comparison import comparison_page, summary_of
from nas_optuna.report.facts import StudyFacts, rows
from nas_optuna.report.notes import study_note
from nas_optuna.report.page import report
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.study.optuna_internals import storage_of
from nas_optuna.study.results import REFERENCE, TrialRecord, front_of
from nas_optuna.study.schema import StudyKey, TrialKey, flaw_of_study
from nas_optuna.study.studies import create_study
from nas_optuna.study.supernet_result import SupernetResult, write_result
from tests.helpers import Command

SPACE = ConvSpace(depth=2, input_size=8)
EVIL = '<img src=x onerror="document.title=1">'


def made(name: str = "s", objectives: tuple[str, ...] = ("accuracy",)) -> optuna.Study:
    spec = StudySpec.from_dict(
        {"space": {"name": "conv", "depth": 2}, "objectives": list(objectives), "recipe": {"input_size": 8}}
    )
    return create_study(optuna.storages.InMemoryStorage(), name, spec, SPACE)


def add(
    study: optuna.Study,
    number: int,
    state: TrialState = TrialState.COMPLETE,
    epochs: int = 3,
    accuracy: float = 0,
    origin: str = "",
    device: str = EVIL,
    **more: object,
) -> None:
    import random

    architecture = SPACE.sample(random.Random(number))
    accuracy = accuracy or 0.5 + 0.4 * random.Random(number).random()
    values = [accuracy, 1000.0 + number][: len(study.directions)]
    pruned = state == TrialState.PRUNED
    curve = {epoch: accuracy * epoch / epochs for epoch in range(1, epochs + (not pruned))}
    attributes = {
        TrialKey.ARCHITECTURE: str(architecture),
        TrialKey.ACCURACY: accuracy,
        TrialKey.EPOCHS: len(curve),
        TrialKey.SECONDS: 1.5,
        TrialKey.DEVICE: device,
        TrialKey.ORIGIN: origin,
        TrialKey.cost("macs"): 1000 + number,
        TrialKey.cost("params"): 100 + number % 7,
        **{getattr(TrialKey, name): value for name, value in more.items()},
    }
    single = len(study.directions) == 1
    trial = create_trial(
        state=state,
        values=None if pruned else values,
        params=dict(architecture.params),
        distributions={n: CategoricalDistribution(p.choices) for n, p in SPACE.parameters.items()},
        user_attrs=attributes if single else attributes | {TrialKey.REPORTS: {str(k): v for k, v in curve.items()}},
        intermediate_values=curve if single else {},
    )
    study.add_trial(trial)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """All tags of a page, each of which is closed, and none of which asks a network or runs code."""
    parser = _Tags()
    parser.feed(page)
    assert parser.open == []
    for tag, attributes in parser.tags:
        assert tag not in ("script", "img", "link", "iframe")
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)
    return parser.tags


def plain(page: str) -> str:
    return re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))


def test_an_empty_study_says_what_to_do() -> None:
    page = report(made())
    tags(page)
    assert "no winner" in plain(page)
    assert "nas-optuna run --study s" in plain(page)


def test_a_study_whose_trials_were_all_pruned_has_pale_curves_and_no_winner() -> None:
    study = made()
    for number in range(5):
        add(study, number, TrialState.PRUNED)
    page = report(study)
    assert sum("pale" in (a.get("class") or "") for _, a in tags(page)) >= 5
    assert "no winner" in plain(page)
    assert "5 trials: stopped by the pruner" in plain(page)
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={TrialKey.CAUSE: "above the limit of macs"}))
    study.add_trial(create_trial(state=TrialState.FAIL))
    text = plain(report(study))
    assert "5 trials: stopped by the pruner. 1 trial: above the limit of macs. 1 trial: failed." in text
    assert "retrain" not in text
    assert "Test" not in text


def test_the_commands_that_reproduce_it_name_the_storage_and_find_the_same(
    command: Command, study: str, place: Path
) -> None:
    assert command("report").code == 0
    page = (place / "report.html").read_text("utf-8")
    typed = html.unescape(page.partition("How to reproduce it")[2].partition("<pre>")[2].partition("</pre>")[0])
    (place / "study.toml").write_text(html.unescape(page.rpartition("<pre>")[2].partition("</pre>")[0]), "utf-8")
    best, retrain, run = [shlex.split(line)[1:] for line in typed.splitlines()]
    assert retrain[0] == "retrain"
    assert best[-2:] == retrain[-2:] == ["--storage", "sqlite:///nas-optuna.db"]
    first = command(*best, "--json").json
    assert command(*run).code == 0
    again = command("best", "--study", run[2], "--json").json
    assert (again["architecture"], again["accuracy"]) == (first["architecture"], first["accuracy"])


@pytest.mark.parametrize(
    ("key", "again"),
    [
        (StudyKey.FIT, "fit digits --spec study.toml --within 90s --out"),
        (StudyKey.WITHIN, "--spec study.toml --within 90s"),
        (StudyKey.WITHIN, "--spec study.toml --within 1728000s"),
    ],
)
def test_a_search_with_a_clock_is_reproduced_with_its_time(key: StudyKey, again: str) -> None:
    study = made()
    study.set_user_attr(key, {"within": 90.0 if "90s" in again else 20.0 * 86400})
    assert again in plain(report(study))
    assert "--trials" not in plain(report(study))


def test_the_reference_is_ranked_even_where_ten_are_better() -> None:
    study = made()
    for number in range(12):
        add(study, number, accuracy=0.9 - number / 100)
    marked = 'data-label="note">reference<'
    assert marked not in report(study)
    add(study, 50, accuracy=0.3, origin=REFERENCE)
    page = report(study)
    assert "The best 10" in page
    assert page.rindex("0.3000") < page.index(marked) < page.index("How it went")


def test_accuracy_has_its_standard_error_and_a_cheaper_one_within_it_is_named() -> None:
    study = made()
    study.set_user_attr(StudyKey.DATA, {"validation": 100})
    for number, accuracy in ((5, 0.90), (4, 0.88), (3, 0.86)):  # the standard error of 0.9 is 0.031
        add(study, number, accuracy=accuracy)
    text = plain(report(study))
    assert "0.9000 ± 0.0313" in text
    cheapest = text.index("The cheapest that is as good")
    assert text.index("0.8800 ± 0.0335") > cheapest > text.index("0.9000 ± 0.0313")


def test_the_entropy_of_a_controller_is_shown_where_one_proposed() -> None:
    study = made()
    add(study, 0)
    assert "Entropy of the controller" not in report(study)
    proposed = study.get_trials()[0]
    proposed.set_user_attr(TrialKey.ENTROPY, 1.1)
    study.add_trial(proposed)
    assert "Entropy of the controller" in report(study)


def test_several_objectives_have_curves_and_a_front() -> None:
    study = made(objectives=("accuracy", "macs"))
    for number in range(6):
        add(study, number)
    page = report(study)
    tags(page)
    assert "The winner in accuracy" in page
    assert f"The front: {len(study.best_trials)} trials that no other beats" in page
    assert 'class="line s1"' in page
    assert page.count('<polyline class="line s0"') >= 7  # the curves and the best so far


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs")])
@pytest.mark.parametrize(
    "say",
    [
        report,
        lambda s: print_ranking(StudyFacts(s)),
        summary_of,
        front_of,
        lambda s: study_note(s),
        lambda s: StudyFacts(s).choose("best"),
    ],
)
def test_all_that_is_said_of_a_study_is_of_one_reading(
    say: Callable[[optuna.Study], object], objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made(objectives=objectives)
    for number in range(12):
        add(study, number)
    storage, readings = storage_of(study), []
    read = storage.get_all_trials

    def growing(*arguments: object, **options: object) -> list[optuna.trial.FrozenTrial]:
        readings.append(read(*arguments, **options))  # type: ignore[arg-type]
        add(study, 100 + len(readings))  # another worker ends a trial
        return readings[-1]

    monkeypatch.setattr(storage, "get_all_trials", growing)
    say(study)
    assert len(readings) == 1


@pytest.mark.parametrize("objectives", [("accuracy",), ("negative_log_likelihood",), ("macs", "accuracy")])
def test_no_image_is_said_to_have_selected_the_cheapest(objectives: tuple[str, ...]) -> None:
    study, by_cost = made(objectives=objectives), objectives[0] == "macs"
    study.set_user_attr(StudyKey.DATA, {"validation": 288})
    add(study, 1)
    told = " ".join(plain(report(study)).split())
    assert "These figures are of the 288 validation images" in told
    assert ("images, which selected the winner: the best of many is partly luck, so expect" in told) != by_cost
    assert f"images, which chose the {'front' if by_cost else 'best'}: expect slightly worse" in study_note(study)
    assert "less on new" not in told


def test_a_page_has_exact_figures_and_a_terminal_brief_ones(capsys: pytest.CaptureFixture[str]) -> None:
    study = made(objectives=("accuracy", "params"))
    add(study, 80_698, accuracy=0.9)  # has 81,698 weights
    add(study, 1_234_567, accuracy=0.95)
    page, note = plain(report(study)), study_note(study)
    print_ranking(StudyFacts(study))
    printed = capsys.readouterr().out
    for exact, brief in (("81,698", "81.7k"), ("1,235,567", "1.24M")):
        assert (exact in page, brief in page) == (True, False)
        assert (exact in printed, brief in printed) == (False, True)
    assert "81,698" in note


def test_a_note_has_the_best_of_a_long_front() -> None:
    study = made(objectives=("accuracy", "params"))
    for number in range(12):  # each is larger and better than those before it
        add(study, number, accuracy=0.5 + 0.04 * number)
    rows = [line for line in study_note(study).splitlines() if line.startswith("| ")]
    assert [row.partition("&")[0].strip("| ") for row in rows] == ["trial", *map(str, range(11, 1, -1))]


def test_text_of_users_is_never_markup() -> None:
    study = made(EVIL)
    add(study, 1)
    add(study, 2)
    for page in (report(study), comparison_page([study], [summary_of(study)])):
        tags(page)
        assert EVIL in html.unescape(page)


def test_control_characters_of_users_are_replaced() -> None:
    study = made()
    add(study, 1, device="a\x00b\x1bc")
    page = report(study)
    assert "<td>a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c</td>" in page
    assert not set("\x00\x1b") & set(page)


def test_lines_break_after_the_choices_of_an_architecture() -> None:
    study = made()
    add(study, 1)
    entry = {
        "architecture": "a=1,b=<2>,Kernel_size=1,große=2",
        "mean": 0.8,
        "spread": None,
        "seeds": [0],
        "images": 1900,
        "test_images": 5,
    }
    study.set_user_attr(StudyKey.RETRAINED, [entry])
    page = report(study)
    tags(page)
    assert "a=1,<wbr>b=&lt;2&gt;,<wbr>Kernel_size=1,<wbr>große=2" in page
    assert "1,900 for training" in page


def test_searched_settings_of_the_recipe_stand_beside_the_architecture() -> None:
    study = made()
    ranges = {"recipe.learning_rate": FloatDistribution(1e-4, 0.1), "recipe.batch_size": IntDistribution(1, 64)}
    chosen = {"recipe.learning_rate": 0.0012345678, "recipe.batch_size": 48}
    for value in (0.8, 0.9):
        study.add_trial(create_trial(value=value, params=chosen, distributions=ranges))
    text = plain(report(study))
    assert text.count("learning_rate") == 3  # the winner, the ranking, the spec
    assert text.count("0.001235") == text.count("  48  ") == 3
    assert TrialRecord.of(study.trials[0]).settings == {"learning_rate": 0.0012345678, "batch_size": 48}
    assert "settings" not in rows(study)[0]


def test_the_test_set_is_shown_once() -> None:
    study = made()
    add(study, 1)
    entry = {"architecture": "a", "mean": 0.8123, "spread": 0.01, "seeds": [0, 1], "images": 9, "test_images": 5}
    entry |= {"accuracies": [0.8023, 0.8223], "seconds": 61.0}
    study.set_user_attr(StudyKey.RETRAINED, [entry | {"device": "cpu"}, entry | {"device": "cpu", "mean": 0.8456}])
    text = plain(report(study))
    assert "0.8123" in text
    assert "0.8456" not in text
    assert "looked at 2 times" in text


@pytest.mark.parametrize(
    "more", [{}, {"accuracies": [0.8]}, {"accuracies": [0.7, 0.8, 0.9]}, {"spread": 0.01}, {"seeds": [3], "images": 9}]
)
def test_a_retraining_is_shown_with_what_is_stored_of_it(more: dict[str, object]) -> None:
    study = made()
    add(study, 1)
    least = {"architecture": "a", "mean": 0.9, "test_images": 100, "seeds": [0, 1], "spread": None}
    assert flaw_of_study({StudyKey.RETRAINED: [least | more]}) is None
    study.set_user_attr(StudyKey.RETRAINED, [least | more])
    text = plain(report(study))
    assert "0.9000 ± " in text
    assert "100 for test" in text
    assert ("0.8000" in text) == ("accuracies" in more)
    assert ("standard deviation over seeds" in text) == ("spread" in more)


def test_a_supernet_of_other_choices_costs_no_page() -> None:
    study = made()
    add(study, 1)
    write_result(study, SupernetResult({"conv1.filters": [0.0, 1.0, 2.0, 3.0], "conv1.kernel": [0.0] * 9}))
    choices = plain(report(study)).partition("What it would choose")[2]
    assert "conv1.filters" in choices
    assert "conv1.kernel" not in choices.partition("Whether to believe it")[0]


def test_a_supernet_that_ranks_all_alike_has_a_rank_correlation_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    study = made()
    for number in range(5):
        add(study, number)
    write_result(study, SupernetResult({"conv1.filters": [0.0, 1.0, 2.0, 3.0]}))
    monkeypatch.setattr("nas_optuna.report.page.find_predictor", lambda *_: lambda params: [0.5] * len(params))
    assert "Kendall's τ 0.00 over 5 networks" in html.unescape(report(study))


def test_the_study_in_which_importances_are_computed_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    study = made()
    for number in range(12):
        add(study, number)
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        report(study)
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert "new study" not in caplog.text
