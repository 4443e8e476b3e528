"""``nas-optuna study``: create, list, show, delete, release, export."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.commands import Command, with_options
from nas_optuna.cli.printing import STDOUT, Column, print_json, print_table, say, write_out
from nas_optuna.cli.specs import SpecOptions
from nas_optuna.errors import SpecError, StudyError, named
from nas_optuna.masking import mask_urls

app = typer.Typer(
    help="Create, list, show, delete and export studies.",
    no_args_is_help=True,
    epilog="Example: nas-optuna study create mine --spec mnist-fast",
)
Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Name of the study.  [default: nas]", show_default=False)
]
# As the commands outside this group have it.
Study = Annotated[str | None, typer.Option("--study", metavar="NAME", help="The same as NAME.", show_default=False)]


def _named(name: str | None, study: str | None) -> str | None:
    """The study that is named in one of two ways, or None; an empty name is a name, and refused later."""
    if name is not None and study is not None and name != study:
        raise SpecError(f"NAME is {name!r} and --study is {study!r}; give one of them")
    return name if study is None else study


def _named_or_default(name: str | None, study: str | None) -> str:
    named = _named(name, study)
    return "nas" if named is None else named


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app, name="study")


@app.command(cls=Command, epilog="Example: nas-optuna study create mine --spec mnist-fast --epochs 3")
@with_options
def create(
    given: SpecOptions,
    name: Name = None,
    study: Study = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Create a study that remembers its spec; the spec's data set is loaded once, to check it."""
    from nas_optuna.experiment import Experiment
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.storage import is_kept, open_storage, storage_url
    from nas_optuna.study.studies import check_name
    from nas_optuna.study.trust import remember

    name = _named_or_default(name, study)
    check_name(name)
    experiment = Experiment.from_spec(given.read(), data_directory=data_dir)
    url = storage_url(storage)
    experiment.create(open_storage(url, create=True), name)
    remember(url, name, code_named(experiment.spec))
    say(f"created study {name!r} in {mask_urls(url)}: {experiment.describe()}")
    for line in experiment.notes():
        say(line)
    if json:
        print_json({"study": name, "storage": mask_urls(url), "spec": experiment.spec.to_dict()})
    if not is_kept(url):
        say("this storage forgets everything when the command ends; --storage sqlite:///nas-optuna.db keeps it")
        return
    say(f"next: {options.hint('run', storage, name, '--trials', '20')}")


@app.command("list", epilog="Example: nas-optuna study list --json")
def list_(storage: options.Storage = None, json: options.Json = False) -> None:
    """List the studies of a storage."""
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import summaries

    rows = summaries(open_storage(storage_url(storage)))
    if json:
        print_json([row.to_dict() for row in rows])
        return
    print_table(
        "studies",
        (
            Column("study", shortest=12),
            Column("trials", right=True),
            Column("complete", right=True, rank=2),
            Column("pruned", right=True, rank=3),
            Column("best", right=True),
            Column("objectives", shortest=10, rank=1),
        ),
        [(r.name, r.trials, r.complete, r.pruned, _best(r.best), ", ".join(r.objectives)) for r in rows],
    )


@app.command(epilog="Example: nas-optuna study show nas")
def show(
    name: Name = None,
    study: Study = None,
    storage: options.Storage = None,
    all_: options.All = False,
    json: options.Json = False,
) -> None:
    """Show a study's spec and its best trials."""
    from nas_optuna.cli.ranking import print_ranking
    from nas_optuna.study.optuna_internals import read_once
    from nas_optuna.study.records import ranked
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study, maximizes, study_spec

    name = _named_or_default(name, study)
    loaded = read_once(load_study(open_storage(storage_url(storage)), name))
    spec = study_spec(loaded).to_dict()
    trials = loaded.get_trials(deepcopy=False)
    if json:
        records = [record.to_dict() for record in ranked(trials, maximizes(loaded))]
        print_json({"study": name, "spec": spec, "trials": records})
        return
    rows = [
        (section, ", ".join(f"{k} = {v}" for k, v in value.items() if v is not None))
        for section, value in spec.items()
        if isinstance(value, dict) and value
    ]
    print_table(f"study {name}: {', '.join(spec['objectives'])}", ("section", "settings"), rows)
    print_ranking(loaded, everything=all_)


@app.command(epilog="Example: nas-optuna study delete nas --yes")
def delete(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the study.", show_default=False)] = None,
    study: Study = None,
    storage: options.Storage = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Delete a study with its trials, checkpoints and weights; asks first."""
    from nas_optuna.report.artifacts import of_study
    from nas_optuna.study.files import elsewhere, folders
    from nas_optuna.study.records import count
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import delete_study, load_study
    from nas_optuna.study.transactions import counts

    name = _named(name, study)
    if name is None:
        raise SpecError("which study? give its NAME; nas-optuna study list lists them")
    url = storage_url(storage)
    opened = open_storage(url)
    trials = sum(counts(opened).get(name, {}).values())
    attributes: dict[str, Any] = {}
    shown: list[str] = []
    try:
        loaded = load_study(opened, name)
        attributes, shown = loaded.user_attrs, of_study(loaded)
    except StudyError as error:
        if name not in counts(opened):
            raise
        say(f"{error}; its files elsewhere are left")
    if not yes:
        typer.confirm(f"Delete study {name!r} with its {count(trials, 'trial')}?", abort=True, err=True)
    files, left = folders(url, attributes), elsewhere(attributes)
    delete_study(opened, name, files)
    for folder, artifact in product(files, shown):
        (folder / "artifacts" / artifact).unlink(missing_ok=True)
    say(f"deleted study {name!r}")
    for path in left:
        say(f"its files in {named(path)} are left: that is no folder of nas-optuna on this host")
    if json:
        print_json({"study": name, "trials": trials, "artifacts": len(shown)})


@app.command(epilog="Example: nas-optuna study release nas 3")
def release(
    words: Annotated[
        list[str], typer.Argument(metavar="NAME TRIAL...", help="Name of the study, and numbers of running trials.")
    ],
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="In place of the first word.", show_default=False)
    ] = None,
    storage: options.Storage = None,
    json: options.Json = False,
) -> None:
    """Put running trials whose host is gone back into the queue, for the next run to take up.

    A run does so by itself: at once after processes of its own machine, and after their lease for those of other hosts.
    """
    from nas_optuna.study.abandoned import release_by_hand
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study

    name, numbers = (words[0], words[1:]) if study is None else (study, words)
    wrong = next((word for word in numbers if not word.isdecimal()), None)
    if wrong is not None or not numbers:
        raise SpecError(f"which trials? {wrong!r} is no number" if wrong is not None else "which trials? give numbers")
    loaded, trials = load_study(open_storage(storage_url(storage)), name), [int(word) for word in numbers]
    for number in trials:
        release_by_hand(loaded, number)
        say(f"trial {number} waits for the next run")
    if json:
        print_json({"study": name, "trials": trials})


@app.command(epilog="Example: nas-optuna study export nas --format csv --out nas.csv")
def export(
    context: typer.Context,
    name: Name = None,
    study: Study = None,
    storage: options.Storage = None,
    format_: Annotated[str, typer.Option("--format", metavar="csv|json", help="Of the file.")] = "csv",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File; stdout without it.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Export every trial: number, state, values, params and figures."""
    from nas_optuna.report.export import FORMATS
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study

    if json and format_ != "json" and options.is_given(context, "format_"):
        raise SpecError(f"--json is the same as --format json; leave out --format {format_}")
    format_ = "json" if json else format_
    if format_ not in FORMATS:
        raise SpecError(f"--format {format_!r} is not known; choose csv or json")
    text = FORMATS[format_](load_study(open_storage(storage_url(storage)), _named_or_default(name, study)))
    write_out(out or STDOUT, text)


def _best(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
