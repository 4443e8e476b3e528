"""``nas-optuna study``: create, list, show, delete, release, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import StudyOptions, option, study_names
from nas_optuna.cli.printing import STDOUT, Column, print_json, print_table, say, write_out
from nas_optuna.cli.results import print_ranking
from nas_optuna.cli.run_options import SpecOptions
from nas_optuna.errors import SpecError, StudyError, named
from nas_optuna.lazily import lazily
from nas_optuna.masking import mask_urls
from nas_optuna.objectives import describe
from nas_optuna.quantities import plural
from nas_optuna.study.storage import FORGETS, is_kept, open_storage, storage_url

with lazily():
    from optuna.study import Study

    from nas_optuna.execution import trial_files
    from nas_optuna.experiment import Experiment
    from nas_optuna.report import dashboard, facts
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study import files, studies, transactions, trust
    from nas_optuna.study.lease import release_by_hand
    from nas_optuna.study.schema import StudyKey


def _name(help: str) -> Any:
    return typer.Argument(metavar="NAME", help=help, show_default=False, autocompletion=study_names)


SameName = Annotated[str | None, option("The same as NAME.", "NAME", autocompletion=study_names)]


@dataclass(frozen=True)
class NamedStudy:
    """A study that is named by a word or, like outside of this group, by an option."""

    name: Annotated[str | None, _name("Name of the study (default: nas).")] = None
    study: SameName = None
    storage: options.Storage = None

    def given(self) -> str | None:
        """The name, or None; an empty name is refused later."""
        if self.name is not None and self.study is not None and self.name != self.study:
            raise SpecError(f"NAME is {self.name!r} and --study is {self.study!r}; give one of them")
        return self.name if self.study is None else self.study

    def stored(self) -> StudyOptions:
        """Which stored study that is."""
        name = self.given()
        return StudyOptions("nas" if name is None else name, self.storage)


@dataclass(frozen=True)
class DoomedStudy(NamedStudy):
    """A study that somebody must name, because it is to be deleted."""

    name: Annotated[str | None, _name("Name of the study.")] = None


_NOT_REMOVED = "you may not delete all of them"


def create(
    given: SpecOptions, named_study: NamedStudy, data_dir: options.DataDir = None, json: options.Json = False
) -> None:
    """Create a study that remembers its spec; the spec's data set is loaded once, to check it."""
    stored = named_study.stored()
    name, url = stored.study, stored.url
    given.refuse_twice()
    studies.check_name(name)
    experiment = Experiment.from_spec(given.of_new_study(), data_directory=data_dir)
    study = experiment.create(url, name)
    trust.remember(url, name, code_named(experiment.spec))
    say(f"created study {name!r} in {mask_urls(url)}: {experiment.describe()}", *experiment.notes())
    if json:
        print_json({"study": name, "storage": mask_urls(url), "spec": experiment.spec.to_dict()})
    if not is_kept(url):
        say(FORGETS)
        return
    say(f"next: {studies.command(study, 'run', '--study', name, '--trials', '20')}")


def list_(storage: options.Storage = None, json: options.Json = False) -> None:
    """List the studies of a storage."""
    found = studies.summaries(open_storage(storage_url(storage)))
    columns = (
        Column("study", lambda row: row.name, shortest=12),
        Column("trials", lambda row: row.trials, right=True),
        Column("complete", lambda row: row.complete, right=True, rank=2),
        Column("pruned", lambda row: row.pruned, right=True, rank=3),
        Column(
            "best", lambda row: None if row.best is None else describe(row.objectives[0]).brief(row.best), right=True
        ),
        Column("objectives", lambda row: ", ".join(row.objectives), shortest=10, rank=1),
    )
    print_table("studies", columns, found, json=json)


def show(named_study: NamedStudy, all_: options.All = False, json: options.Json = False) -> None:
    """Show a study's spec and its best trials."""
    shown = facts.StudyFacts(named_study.stored().open())
    name, spec = shown.study.study_name, shown.spec.to_dict()
    if json:
        print_json({"study": name, "spec": spec, "trials": [record.to_dict() for record in shown.records]})
        return
    sections = {name: value for name, value in spec.items() if isinstance(value, dict) and value}
    besides = {name: value for name, value in spec.items() if not isinstance(value, dict) and name != "objectives"}
    rows = [
        (section, ", ".join(f"{k} = {studies.written(v)}" for k, v in value.items() if v is not None))
        for section, value in [*sections.items(), ("at the top", besides)]
    ]
    print_table(f"study {name}: {', '.join(spec['objectives'])}", ("section", "settings"), rows)
    print_ranking(shown, everything=all_)


def delete(
    named_study: DoomedStudy,
    yes: Annotated[bool, option("Do not ask.", None, "--yes")] = False,
    json: options.Json = False,
) -> None:
    """Delete a study with its trials, checkpoints and weights; asks first."""
    name = named_study.given()
    if name is None:
        raise SpecError("which study? give its NAME; nas-optuna study list lists them")
    url = storage_url(named_study.storage)
    opened = open_storage(url)
    trials = sum(transactions.counts(opened).get(name, {}).values())
    attributes: dict[str, Any] = {}
    shown: list[str] = []
    loaded: Study | None = None
    try:
        loaded = studies.load_study(opened, name)
        attributes, shown = loaded.user_attrs, dashboard.of_study(loaded)
    except StudyError as error:
        if name not in transactions.counts(opened):
            raise
        uid = transactions.uid_of(opened, name)
        attributes = {} if uid is None else {StudyKey.UID: uid}
        say(f"{error}; its files elsewhere are left")
    if not yes:
        try:
            agreed = typer.confirm(f"Delete study {name!r} with its {plural(trials, 'trial')}?", err=True)
        except typer.Abort as error:
            if not isinstance(error.__context__, EOFError):  # Ctrl-C
                raise
            raise StudyError(f"nobody said yes, so study {name!r} is kept; --yes says it") from None
        if not agreed:
            say(f"study {name!r} is kept")
            return
    transactions.require_writable_row(opened, opened.get_study_id_from_name(name))  # before its files go
    left = dict.fromkeys(files.elsewhere(attributes), "that is no folder of nas-optuna on this host")
    places = {folder: studies.checkpoint_folder(folder, name) for folder in files.used_folders(url, attributes)}
    uid = attributes.get(StudyKey.UID)
    is_unknown = loaded is None and uid is None  # then the folder beside the database is taken for its own
    beside = {folder: not files.may_be_of_others(url, folder) for folder in places}
    own = [
        folder
        for folder, path in places.items()
        if (is_unknown and beside[folder]) or trial_files.is_only_of(path, uid, otherwise=beside[folder])
    ]
    for store in (folder / "artifacts" for folder in files.folders(url, attributes)):  # uploads of a dashboard, too
        if not dashboard.remove(store, shown):
            left[str(store)] = _NOT_REMOVED
    studies.delete_study(opened, name, own)  # last, since the study lists the files
    for folder, path in places.items():
        if path.exists():
            left[str(path)] = _NOT_REMOVED if folder in own else "they may be those of another study"
    say(f"deleted study {name!r}", *(f"its files in {named(path)} are left: {why}" for path, why in left.items()))
    if json:
        print_json({"study": name, "trials": trials, "artifacts": len(shown)})


def release(
    words: Annotated[
        list[str], typer.Argument(metavar="NAME TRIAL...", help="Name of the study, and numbers of running trials.")
    ],
    study: Annotated[str | None, option("In place of the first word.", "NAME")] = None,
    storage: options.Storage = None,
    json: options.Json = False,
) -> None:
    """Put running trials whose host is gone back into the queue, for the next run to take up.

    A run does so by itself: at once after processes of its own machine, and after their lease for those of other hosts.
    """
    name, *numbers = words if study is None else [study, *words]
    if not numbers or not all(number.isdecimal() and len(number) < 10 for number in numbers):
        given = f", not {' '.join(numbers)!r}" if numbers else f" after the study's name, {name!r}"
        raise SpecError(f"which trials? give the numbers of running ones{given}")
    loaded, trials = StudyOptions(name, storage).open(), [int(word) for word in numbers]
    for number in trials:
        release_by_hand(loaded, number)
        say(f"trial {number} waits for the next run")
    if json:
        print_json({"study": name, "trials": trials})


def export(
    named_study: NamedStudy,
    format_: Annotated[
        Literal["csv", "json"] | None,
        option("Format of the file (default: by its name, else csv).", "csv|json", "--format"),
    ] = None,
    out: Annotated[Path | None, option("File (default: stdout).", "FILE")] = None,
    json: Annotated[bool, option("The same as --format json.", None, "--json")] = False,
) -> None:
    """Export every trial: number, state, values, params and figures."""
    if json and format_ not in (None, "json"):
        raise SpecError(f"--json is the same as --format json; leave out --format {format_}")
    records = facts.rows(named_study.stored().open())
    if json or format_ == "json" or (format_ is None and out is not None and out.suffix.lower() == ".json"):
        print_json(records, out or STDOUT)
    else:
        write_out(out or STDOUT, facts.to_csv(records), ".csv")
