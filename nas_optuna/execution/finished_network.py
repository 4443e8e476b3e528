"""The network that a trial trained, or that was retrained for it, with its accuracy."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.study import Study
from optuna.trial import FrozenTrial
from torch import nn

from nas_optuna.data import BatchLoader
from nas_optuna.errors import StudyError
from nas_optuna.execution.evaluator import Search
from nas_optuna.execution.retrain import TestReport
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.quantities import plural
from nas_optuna.spaces import SearchSpace
from nas_optuna.study.files import folders
from nas_optuna.study.optuna_internals import url_of
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.significance import Measured
from nas_optuna.study.studies import checkpoint_folder, command, study_uid
from nas_optuna.training import ImageClassifier, evaluate, load_network
from nas_optuna.training.checkpoint import KeptWeights, require_tensors
from nas_optuna.training.serialization import Origin, make_header

_SLACK = 0.002
"""The share of images, in addition to one, that another device or precision may classify differently."""


@dataclass(frozen=True)
class FinishedNetwork:
    """A trained network on the CPU, with facts for a reader, by name."""

    classifier: ImageClassifier
    facts: dict[str, str]
    retrained: bool = False  # on training and validation images


def origin_of(study: Study, trial: FrozenTrial, report: TestReport) -> Origin:
    """The origin and test figures that are stored with a retraining's first network."""
    return Origin(
        study=study.study_name,
        study_uid=study_uid(study),
        trial=trial.number,
        recipe=report.recipe,
        seed=report.seeds[0],
        test_accuracy=report.accuracies[0],
        test_images=report.test_images,
        accuracies=list(report.accuracies),
    )


def retrained_network(
    study: Study, search: Search, trial: FrozenTrial, file: Path, by: str = "retrain"
) -> FinishedNetwork:
    """The network in a file that ``nas-optuna retrain`` or ``fit`` wrote for a trial, with the figures stored there."""
    classifier = load_network(file, space=search.space)
    wanted, origin = search.space.architecture(of_architecture(trial.params)), classifier.header.origin
    uid = study.user_attrs.get(StudyKey.UID)
    if origin is not None and (origin.study_uid, origin.trial) != (uid, trial.number):
        found = f"trial {origin.trial}" + ("" if origin.study_uid == uid else f" of another study, {origin.study!r}")
        raise StudyError(
            f"{file} is of {found}, not of trial {trial.number}; {_remedy(study, trial)},"
            " and without the file kept weights are exported"
        )
    if classifier.architecture != wanted:
        raise StudyError(f"{file} holds {classifier.architecture}, and trial {trial.number} is {wanted}")
    if classifier.classes != search.data.train.classes:
        raise StudyError(f"{file} is of other classes than the images of study {study.study_name!r}")
    if origin is None:
        unknown = "not known: the file does not say of which study and trial it is"
        return FinishedNetwork(classifier, {"trained": "not known", "test accuracy": unknown}, retrained=True)
    trained = f"by nas-optuna {by}, for trial {trial.number} of study {study.study_name}, seed {origin.seed}"
    shown = Measured.on(origin.test_images, origin.test_accuracy).exact
    facts = {"trained": trained, "test accuracy": f"{shown} on {origin.test_images:,} images"}
    if (seeds := len(origin.accuracies)) > 1:
        mean = statistics.fmean(origin.accuracies)
        facts[f"mean test accuracy of {seeds} seeds"] = f"{mean:.4f}, of which these weights are one"
    return FinishedNetwork(classifier, facts, retrained=True)


def _remedy(study: Study, trial: FrozenTrial) -> str:
    typed = command(study, "retrain", "--study", study.study_name, "--trial", str(trial.number))
    return f"{typed} makes the file of this one"


def kept_of(study: Study, trial: FrozenTrial) -> KeptWeights:
    """The folder in which the weights of a trial were kept, among those of the study on this host."""
    url, own = url_of(study) or "sqlite://", study.user_attrs.get(StudyKey.UID)  # the former for one in memory
    found = folders(url, study.user_attrs)
    every = [KeptWeights(checkpoint_folder(each, study.study_name)) for each in found]
    there = [kept for kept in every if trial.number in kept.numbers()]
    # Studies of the same name in two databases may share a folder.
    ours = [kept for kept in there if kept.study_of(trial.number) in (None, own)]
    # A program gives its experiment the folder itself, which may be the one that is named now.
    ours += [kept for kept in map(KeptWeights, found) if own and kept.study_of(trial.number) == own]
    return (ours or there or every)[0]


def with_kept_weights(
    study: Study, space: SearchSpace, trial: FrozenTrial, kept: KeptWeights
) -> tuple[nn.Module, dict[str, str]]:
    """A trial's network with its kept weights, and their facts; a `StudyError` if they are not the trial's."""
    try:
        found = kept.load(trial.number)
    except StudyError as error:
        raise StudyError(f"{error}; {_remedy(study, trial)}") from error
    if found is None:
        raise StudyError(
            f"the weights of trial {trial.number} are not in {kept.path}: they were not kept, or are in another folder,"
            f" which NAS_OPTUNA_FILES names; {_remedy(study, trial)}, trained in full; one that is elsewhere is"
            " --network FILE"
        )
    weights, facts = found
    own = study.user_attrs.get(StudyKey.UID)
    if facts.get("study_uid", own) != own:
        raise StudyError(f"the weights in {kept.path} are of an earlier study of that name; {_remedy(study, trial)}")
    network = space.build(space.architecture(of_architecture(trial.params)))
    try:
        require_tensors(weights, network.state_dict())
    except ValueError as error:
        raise StudyError(
            f"the kept weights of trial {trial.number} are of another network ({error}); {_remedy(study, trial)}"
        ) from error
    network.load_state_dict(weights)
    return network, facts


def kept_network(study: Study, search: Search, trial: FrozenTrial) -> FinishedNetwork:
    """A trial's network with its kept weights, whose accuracy is measured again and must be unchanged."""
    network, facts = with_kept_weights(study, search.space, trial, kept_of(study, trial))
    architecture = search.space.architecture(of_architecture(trial.params))
    classifier = ImageClassifier(
        network, architecture, make_header(architecture, search.spec, search.data.train)
    ).eval()
    accuracy, measured = _validated(classifier, search), float(facts.get("accuracy", "nan"))
    images = len(search.data.validation)
    if abs(accuracy - measured) > _SLACK + 1.5 / images:
        raise StudyError(
            f"the kept weights of {architecture} reach {accuracy:.4f} on the validation images, and the search measured"
            f" {measured:.4f}: the images or the weights have changed; {_remedy(study, trial)}"
        )
    shown = Measured.on(images, accuracy).exact
    trained = f", {plural(int(facts['epochs']), 'epoch')}" if "epochs" in facts else ""
    return FinishedNetwork(
        classifier,
        {
            "trained": f"as trial {trial.number} of study {study.study_name}{trained}",
            f"{search.spec.data.select_on} accuracy": f"{shown} on {images:,} images that took part in selecting it",
        },
    )


def _validated(classifier: ImageClassifier, search: Search) -> float:
    """The accuracy on the validation images, measured again from the raw pixels."""
    cpu = torch.device("cpu")
    loader = BatchLoader(search.data.validation, search.spec.recipe.batch_size, search.space.input_size, cpu)
    return evaluate(classifier.network, loader, cpu, torch.float32).accuracy
