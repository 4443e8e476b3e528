"""A stored study in a notebook: its best trial, its trials as a table, its drawing, its report, its network."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from optuna.storages import BaseStorage

from nas_optuna.errors import NasOptunaError, StudyError, checked
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.lazily import lazily
from nas_optuna.registry import importing_only
from nas_optuna.report.rendering import save
from nas_optuna.study.optuna_internals import url_of
from nas_optuna.study.results import TrialRecord
from nas_optuna.study.storage import open_storage, storage_url
from nas_optuna.study.studies import load_study as load_optuna_study
from nas_optuna.study.studies import study_spec

with lazily():
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from pandas import DataFrame
    from torch import nn

    from nas_optuna.report import drawing, page
    from nas_optuna.report.facts import StudyFacts, rows
    from nas_optuna.spaces import SearchSpace
    from nas_optuna.spec import StudySpec
    from nas_optuna.spec_parts import code_named
    from nas_optuna.study.trust import require_trust


@dataclass(frozen=True)
class Report:
    """A report, which a notebook displays.

    Attributes:
        html: The whole page.
    """

    html: str = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the page to a file.

        Raises:
            NasOptunaError: The file cannot be written.
        """
        return save(path, self.html)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" width="100%" height="700" style="border:0"></iframe>'


@dataclass(frozen=True)
class LoadedStudy:
    """A stored study, for a notebook.

    Attributes:
        study: The Optuna study.
        spec: Its spec when it was loaded. The study may name other code since then, which is not imported.
        data_directory: Where data sets are; None is their default place.
    """

    study: Study
    spec: StudySpec = field(repr=False, compare=False)
    data_directory: Path | None = None

    @cached_property
    def agreed(self) -> frozenset[str]:
        """The code that may be imported, as ``kind name``."""
        return frozenset(code_named(self.spec))

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        with importing_only(self.agreed):
            return StudyFacts(self.study).space

    @property
    def best(self) -> TrialRecord:
        """The best complete trial inside the limits.

        Raises:
            StudyError: No trial is complete yet.
        """
        return self.trial("best")

    def trial(self, which: str | int = "best") -> TrialRecord:
        """A trial by number, ``"best"``, or ``"cheapest"`` (the fewest MACs at most one standard error below it).

        Raises:
            StudyError: There is no such trial.
        """
        return TrialRecord.of(self._chosen(which))

    def frame(self) -> DataFrame:
        """All trials, one row each: state, objectives, figures, and one column ``param.NAME`` per parameter.

        Raises:
            StudyError: pandas is not installed.
        """
        try:
            with importing_only(self.agreed):
                return DataFrame(rows(self.study))
        except ImportError:
            raise StudyError("a table of trials needs one more package: pip install 'nas-optuna[notebook]'") from None

    def report(self) -> Report:
        """The report that ``nas-optuna report`` writes."""
        with importing_only(self.agreed):
            return Report(page.report(self.study, self.data_directory))

    def draw(self, which: str | int = "best") -> drawing.Drawing:
        """A trial's network as a picture."""
        return drawing.draw_trial(self.space, self._chosen(which))

    def network(self, which: str | int = "best") -> nn.Module:
        """A trial's network, freshly initialised; `nas_optuna.load_network` reads trained weights."""
        return self.space.build(self.space.architecture(of_architecture(self._chosen(which).params)))

    def _chosen(self, which: str | int) -> FrozenTrial:
        with importing_only(self.agreed):
            return StudyFacts(self.study).choose(str(which))

    def _repr_svg_(self) -> str | None:
        try:
            return self.draw().svg
        except NasOptunaError:  # a notebook then shows its text
            return None


@checked
def load_study(
    name: str, storage: str | BaseStorage | None = None, *, data_directory: Path | None = None, trust: bool = False
) -> LoadedStudy:
    """Open a stored study.

    Args:
        name: Name of the study.
        storage: The storage, or its URL; by default ``NAS_OPTUNA_STORAGE``, else ``sqlite:///nas-optuna.db``.
        data_directory: Where data sets are; None is their default place.
        trust: Allow that the code which the study names is imported.

    Raises:
        StudyError: There is no such study, it is not one of nas-optuna, or it names code that was not allowed.

    Examples:
        >>> import tempfile
        >>> from nas_optuna import Experiment, StudySpec
        >>> from nas_optuna.study.storage import open_storage
        >>> url = f"sqlite:///{tempfile.mkdtemp()}/nas.db"
        >>> experiment = Experiment.from_spec(StudySpec.from_dict({"space": {"name": "conv", "depth": 1}}))
        >>> made = experiment.create(open_storage(url, create=True), "nas")
        >>> load_study("nas", url).space.size
        24
    """
    if isinstance(storage, BaseStorage):
        study = load_optuna_study(storage, name)
        url = url_of(study) or ""
    else:
        url = storage_url(storage)
        study = load_optuna_study(open_storage(url), name)
    spec = study_spec(study)
    require_trust(url, name, code_named(spec), yes=trust)
    return LoadedStudy(study, spec, data_directory)
