"""What the winner gets wrong of the images that selected it, where its weights were kept."""

from __future__ import annotations

import torch

from nas_optuna.data import make_loader
from nas_optuna.errors import NasOptunaError
from nas_optuna.execution.finished_network import kept_network
from nas_optuna.execution.mistakes import find_mistakes
from nas_optuna.experiment import Experiment
from nas_optuna.report.facts import StudyFacts
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import evaluate
from nas_optuna.training.kept_weights import KEPT_FOLDER, KeptWeights


def mistakes_of_winner(facts: StudyFacts) -> list[tuple[str, str, str]]:
    """Class, what it was taken for, and the small picture; nothing where weights or images are not there."""
    if facts.files is None or facts.winners is None:
        return []
    best = facts.winners.best
    kept = KeptWeights(checkpoint_folder(facts.files, facts.study.study_name) / KEPT_FOLDER)
    if best.number not in kept.numbers():
        return []
    cpu = torch.device("cpu")
    try:
        experiment = Experiment.from_spec(facts.spec, data_directory=facts.data_directory, device="cpu")
        experiment.require_same(facts.study)
        search = experiment.search
        network = kept_network(facts.study, search, best, kept).classifier.network
    except NasOptunaError:  # whatever it lacks, the report is whole without these pictures
        return []
    images, names = search.data.validation, search.data.train.classes
    loader = make_loader(images, search.spec.recipe.batch_size, search.space.input_size, cpu)
    predicted = evaluate(network, loader, cpu, torch.float32).predicted.tolist()
    return [(names[one.label], names[one.predicted], one.picture) for one in find_mistakes(images, predicted)]
