"""The network that a trial trained, or that was retrained for it, with what is known of how well it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.data import make_loader
from nas_optuna.errors import StudyError
from nas_optuna.execution.search import Search
from nas_optuna.hyperparameters import of_architecture
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.study.hints import command
from nas_optuna.study.records import count
from nas_optuna.study.schema import StudyKey, study_attribute
from nas_optuna.study.standard_errors import accuracy_on_test, sampling_error, with_error
from nas_optuna.training import ImageClassifier, evaluate, load_network
from nas_optuna.training.kept_weights import KeptWeights
from nas_optuna.training.serialization import make_header
from nas_optuna.training.soundness import require_tensors

_SLACK = 0.002
"""How much of the images may be classified otherwise on another device or in another precision, beside one image."""


@dataclass(frozen=True)
class FinishedNetwork:
    """A trained network and its figures.

    Attributes:
        classifier: The network, on the CPU.
        facts: What a reader should know of it, by name.
    """

    classifier: ImageClassifier
    facts: dict[str, str]


def retrained_network(study: Study, search: Search, trial: FrozenTrial, file: Path) -> FinishedNetwork:
    """The network of a file that ``nas-optuna retrain`` wrote for a trial.

    Raises:
        DataError: The file cannot be read.
        StudyError: It is of another architecture.
    """
    classifier = load_network(file, space=search.space)
    wanted = search.space.architecture(of_architecture(trial.params))
    if classifier.architecture != wanted:
        raise StudyError(f"{file} holds {classifier.architecture}, and trial {trial.number} is {wanted}")
    reports: list[dict[str, Any]] = study_attribute(study.user_attrs, StudyKey.RETRAINED, [])
    facts = {"trained": f"by nas-optuna retrain, for trial {trial.number} of study {study.study_name}"}
    for report in reversed(reports):
        if report.get("architecture") == str(wanted):
            facts["test accuracy"] = f"{accuracy_on_test(report)} on {report['test_images']:,} images"
            break
    return FinishedNetwork(classifier, facts)


def kept_network(study: Study, search: Search, trial: FrozenTrial, kept: KeptWeights) -> FinishedNetwork:
    """The network of a trial whose weights were kept; its accuracy is measured again and must be what it was.

    Raises:
        StudyError: They were not kept, are of another network, or do not reach what the search measured.
    """
    found = kept.load(trial.number)
    if found is None:
        typed = command(study, "retrain", "--study", study.study_name, "--trial", str(trial.number))
        raise StudyError(
            f"the weights of trial {trial.number} are not in {kept.path}: they were not kept, or are in another folder,"
            f" which NAS_OPTUNA_FILES names; {typed} trains it in full, and export takes what it writes"
        )
    weights, facts = found
    architecture = search.space.architecture(of_architecture(trial.params))
    network = search.space.build(architecture)
    try:
        require_tensors(weights, network.state_dict())
    except ValueError as error:
        raise StudyError(f"the kept weights of trial {trial.number} are of another network ({error})") from error
    network.load_state_dict(weights)
    classifier = ImageClassifier(
        network, architecture, make_header(architecture, search.spec, search.data.train)
    ).eval()
    accuracy = _validated(classifier, search, architecture, facts)
    images = len(search.data.validation)
    shown = with_error("accuracy", accuracy, sampling_error(accuracy, images))
    epochs = facts.get("epochs", "")
    trained = f", {count(int(epochs), 'epoch')}" if epochs.isdecimal() else ""
    return FinishedNetwork(
        classifier,
        {
            "trained": f"as trial {trial.number} of study {study.study_name}{trained}",
            f"{search.spec.data.select_on} accuracy": f"{shown} on {images:,} images that took part in selecting it",
        },
    )


def _validated(classifier: ImageClassifier, search: Search, architecture: Architecture, facts: dict[str, str]) -> float:
    """The accuracy on the images that select, measured again from the raw pixels.

    Raises:
        StudyError: It is not what the search measured.
    """
    cpu = torch.device("cpu")
    loader = make_loader(search.data.validation, search.spec.recipe.batch_size, search.space.input_size, cpu)
    accuracy = evaluate(classifier.network, loader, cpu, torch.float32).accuracy
    try:
        measured = float(facts["accuracy"])
    except (KeyError, ValueError):
        return accuracy
    if not abs(accuracy - measured) <= _SLACK + 1.5 / loader.size:
        raise StudyError(
            f"the kept weights of {architecture} reach {accuracy:.4f} on the validation images, and the search measured"
            f" {measured:.4f}: the images or the weights have changed; nas-optuna retrain makes new ones"
        )
    return accuracy
