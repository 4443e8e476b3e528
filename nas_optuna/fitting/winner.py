"""The network that a fit trains last, tests and exports."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.costs.study_costs import Limits
from nas_optuna.devices import resolve_device
from nas_optuna.errors import SpecError, StudyError, named
from nas_optuna.execution.evaluator import Search
from nas_optuna.execution.reference import as_space, trained_reference
from nas_optuna.execution.retrain import TestReport, stored_report
from nas_optuna.fitting.inputs import TRAINED, WEIGHTS
from nas_optuna.fitting.rungs import trained_weights
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.metrics import ACCURACIES
from nas_optuna.quantities import plural
from nas_optuna.report.facts import StudyFacts
from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import StudySpec
from nas_optuna.study.files import folders
from nas_optuna.study.results import changes
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.significance import Gain, is_ahead, remembered_images
from nas_optuna.study.studies import maximizes

if TYPE_CHECKING:
    from torch import Tensor

    from nas_optuna.training import ImageClassifier
    from nas_optuna.training.checkpoint import KeptWeights


@dataclass(frozen=True, repr=False)
class Fitted:
    """A network that was found, trained and tested.

    Attributes:
        network: Takes raw pictures, and has `predict` and `probabilities`.
        report: Its test figures.
        study: The search, which any Optuna tool can read.
        gain: Its gain over the reference and over always naming the largest class.
        folder: Where everything was written: ``network/``, ``report.html`` and ``search.db``.
        seconds: How long the fit took.
        facts: Its costs that were limited, and its accuracy in eight bits if that was an objective.
    """

    network: ImageClassifier
    report: TestReport
    study: Study
    gain: Gain | None
    folder: Path
    seconds: float
    facts: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, where its network alone would fill pages."""
        accuracy, images = self.report.mean, plural(self.report.test_images, "image")
        return f"<Fitted: test accuracy {accuracy:.4f} on {images}, in {named(self.folder)}>"

    def predict(self, images: Any) -> list[str]:
        """The class of each picture; see `nas_optuna.training.ImageClassifier.predict`."""
        return self.network.predict(images)


@dataclass(frozen=True)
class Winner:
    """The best network of the search, or the user's own reference if nothing was ahead of it."""

    trial: FrozenTrial  # the best one of the search, even if `own`
    space: SearchSpace
    architecture: Architecture
    own: bool = False  # whether it is the user's own reference

    @classmethod
    def known(cls, trial: FrozenTrial, space: SearchSpace, reference: str | None = None) -> Winner:
        """The network of a trial, or the user's own reference if its name is given."""
        if reference is None:
            return cls(trial, space, space.architecture(of_architecture(trial.params)))
        own = as_space(reference, like=space)
        return cls(trial, own, own.architecture({}), own=True)

    @classmethod
    def of(cls, study: Study, trial: FrozenTrial, search: Search, device: str) -> Winner:
        """The network of the best trial, unless the user's own reference is inside the limits and no worse."""
        found, spec = cls.known(trial, search.space), search.spec
        measured: dict[str, Any] = study.user_attrs.get(StudyKey.REFERENCE, {})
        value = measured.get("value", measured.get("accuracy") if spec.objectives[0] in ACCURACIES else None)
        # Both by a training of the same rung; and a repeated call may have named another reference.
        rung = attribute(trial, TrialKey.IDENTITY)
        alike = (measured.get("name"), measured.get("identity")) == (spec.reference, rung)
        if spec.reference is None or value is None or not alike:
            return found
        if is_ahead(trial.values[0], value, remembered_images(study), maximize=maximizes(study)):
            return found
        own = cls.known(trial, search.space, spec.reference)
        untold = spec.model_copy(update={"latency": spec.latency.model_copy(update={"table": None})})
        limits = Limits.of(untold, own.space, resolve_device(device))  # of another space than the table
        return own if limits.total_excess(own.architecture) <= 0 else found

    def described(self, study: Study) -> str:
        """What it is, for a person."""
        if self.own:
            return f"your reference {study.user_attrs[StudyKey.REFERENCE]['name']}"
        return f"trial {self.trial.number} ({changes(str(self.architecture), StudyFacts(study).reference)})"

    def in_search(self, search: Search) -> Search:
        """A search on the same images in the network's space."""
        if not self.own:
            return search
        section = search.spec.space.model_validate({"name": search.spec.reference})
        return replace(search, space=self.space, spec=search.spec.model_copy(update={"space": section}))

    def left_by_the_search(
        self, study: Study, kept: KeptWeights, reference: str | None
    ) -> tuple[Mapping[str, Tensor] | None, float]:
        """Its weights, from which the last training continues, and their training time; None if they are not kept."""
        if self.own:
            return trained_reference(study, reference, self.space.build(self.architecture), kept) or (None, 0.0)
        weights = trained_weights(study, self.space, kept, self.architecture)
        return weights, 0.0 if weights is None else attribute(self.trial, TrialKey.SECONDS, 0.0)

    def gain(self, study: Study) -> Gain | None:
        """The gain of the chosen network over the reference."""
        facts = StudyFacts(study)
        found = facts.gain_of(self.trial)
        if found is None or found.reference is None or not self.own:
            return found
        tested = facts.on_test(None)  # a report without a trial is of the user's own reference
        return replace(found, best=found.reference, is_reference=True, tested=tested)


def require_known_limits(spec: StudySpec) -> None:
    """Refuse a latency table by which the user's own reference would have to be inside the limits."""
    if spec.reference and spec.latency.table and "latency_ms" in spec.limits:
        raise SpecError(
            "a latency table tells nothing of your own reference, so a fit cannot say whether that is within the limit"
            " of latency; leave out --reference or --latency-table"
        )


def winner_of(study: Study, space: SearchSpace, reference: str | None) -> Winner:
    """The network that a fit has decided to train last; its space may contain only the user's own reference."""
    final: dict[str, Any] = study.user_attrs[StudyKey.FIT]["final"]
    trial = next((t for t in study.get_trials(deepcopy=False) if t.number == final["trial"]), None)
    if trial is None:  # somebody has removed its rows
        raise StudyError(
            f"the study of this fit has lost trial {final['trial']}, which it chose; fit into another folder"
        )
    if final.get("own") and reference is None:
        decided = shlex.quote(study.user_attrs[StudyKey.REFERENCE]["name"])
        raise StudyError(
            f"this fit has chosen your own reference; repeat its command with --reference {decided}, or fit into"
            " another folder (--out FOLDER)"
        )
    return Winner.known(trial, space, reference if final.get("own") else None)


def trained_file(study: Study, trial: FrozenTrial, url: str) -> Path | None:
    """The file of the network that a fit has trained last, if it is this trial's; a `StudyError` if it is not there."""
    final: dict[str, Any] = study.user_attrs.get(StudyKey.FIT, {}).get("final", {})
    if final.get("own") or final.get("trial") != trial.number or report_of(study) is None:
        return None
    files = folders(url)[-1]
    if not (files / TRAINED).is_file():
        raise StudyError(
            f"the network that this fit has trained last is not in {files / TRAINED}, and the search has trained it for"
            f" less time; name its file: --network {shlex.quote(str(files.parent / WEIGHTS))}"
        )
    return files / TRAINED


def report_of(study: Study) -> TestReport | None:
    """The fit's own test, which need not be the last one: `retrain` may have tested networks since; None before it."""
    state = study.user_attrs.get(StudyKey.FIT, {})
    look = state.get("look", 0 if state.get("done") else None)  # of earlier fits it was not stored
    return None if look is None else stored_report(study.user_attrs, look)
