"""``compare`` says when more than samplers differ."""

from pathlib import Path

import optuna

from nas_optuna.data.images import class_counts
from tests.helpers import Command, tiny

RUN = ("run", "--sampler", "random", "--trials", 1)


def test_studies_of_other_images_and_recipes_are_not_put_side_by_side_without_a_word(command: Command) -> None:
    assert command(*RUN, "--study", "a", *tiny()).code == 0
    assert command(*RUN, "--study", "b", *tiny()).code == 0
    alike = command("compare", "a", "b")
    assert "differ" not in alike.err
    assert command(*RUN, "--study", "c", *tiny(recipe__epochs=2, data__train_limit=150, space__depth=1)).code == 0
    assert command(*RUN, "--study", "d", *tiny(), "--search", "recipe.batch_size=32,64").code == 0
    said = " ".join(command("compare", "a", "b", "c", "d").err.split())
    assert "they differ in more than their samplers and pruners" in said
    assert "recipe.epochs: 1 in a, b, d; 2 in c" in said
    assert "space.depth: 2 in a, b, d; 1 in c" in said
    assert "images: digits (160 + 40," in said
    assert "digits (120 + 30," in said
    assert "searched batch_size" in said
    assert command("compare", "a", "c", "--out", "page.html").code == 0
    both = command("compare", "a", "c", "--out", "-", "--json")
    assert both.code == 2
    assert "leave one of them out" in both.err
    with open("page.html", encoding="utf-8") as page:
        assert "recipe.epochs: 1 in a; 2 in c" in page.read()


def test_all_that_decides_a_value_is_compared(command: Command) -> None:
    assert command(*RUN, "--study", "a", *tiny()).code == 0
    other = (
        "--objective",
        "accuracy",
        "--objective",
        "macs",
        "--max-params",
        "10M",
        "--set",
        'fixed={"conv1.stride" = 1}',
    )
    assert command(*RUN, "--study", "b", *tiny(data__select_on="test"), *other).code == 0
    said = " ".join(command("compare", "a", "b").err.split())
    for line in ("objectives: accuracy in a; accuracy, macs in b", "limits.params: 10000000 in b"):
        assert line in said
    for line in ("data.select_on: validation in a; test in b", "fixed.conv1.stride: 1 in b"):
        assert line in said


def test_changed_code_and_trainings_by_a_clock_are_compared(command: Command) -> None:
    Path("mine.py").write_text(
        "import nas_optuna as nas\nfrom torch import nn\n@nas.space\ndef mine(c, task):\n"
        "    c.choice('bias', [True, False])\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(task.classes))\n"
    )
    settings = (word for word in tiny() if word not in ("--set", "space.depth=2"))
    given = [word for setting in (*settings, "space.name=mine.py:mine") for word in ("--set", setting)]
    for name in ("a", "b"):
        assert command(*RUN, "--study", name, *given).code == 0
    assert "differ" not in command("compare", "a", "b").err
    changed = optuna.load_study(study_name="b", storage="sqlite:///nas-optuna.db")
    described = changed.user_attrs["nas_optuna:space"]
    changed.set_user_attr("nas_optuna:space", described | {"parameters": {"bias": [True]}})
    trial = optuna.create_trial(value=0.5, user_attrs={"nas_optuna:share": 3.0})
    changed.add_trial(trial)
    said = " ".join(command("compare", "a", "b").err.split())
    assert said.count("mine.py:mine (") == 2
    assert "trained: for epochs in a; for seconds in b" in said


def test_an_objective_that_is_a_cost_stands_once_in_a_front(command: Command) -> None:
    objectives = ("--objective", "accuracy", "--objective", "macs")
    assert command(*RUN, *objectives, *tiny()).code == 0
    heading = command("pareto").out.splitlines()[1].casefold()
    assert heading.count("macs") == 1
    for value in ("nan", "inf"):
        assert "it must be a finite number" in command("pareto", "--reference", f"macs={value}").err


def test_class_counts_say_what_they_hold(command: Command) -> None:
    assert "classes, by images that train or select: 0 20, 1 20" in command(*RUN, *tiny()).err


def test_class_counts_of_many_or_long_names() -> None:
    many = [f"class {i}" for i in range(20)]
    assert class_counts(many, [16] * 20) == "20 classes of 16 images each"
    assert class_counts(many, [15, *[16] * 19]) == ("20 classes of 15 to 16 images each (fewest class 0, most class 1)")
    assert class_counts(["a" * 50], [3]) == f"{'a' * 20}…{'a' * 19} 3"


def test_values_that_are_shortened_to_the_same_text_differ(command: Command) -> None:
    for name, size in (("a", 70), ("b", 71)):
        sizes = [*range(10, 70), size, *range(80, 140)]  # the one that differs is in the middle
        searched = ("--search", "recipe.batch_size=" + ",".join(map(str, sizes)))
        assert command("study", "create", name, *tiny(), *searched).code == 0
    assert "searched batch_size: " in command("compare", "a", "b").err
