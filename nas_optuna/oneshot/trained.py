"""A study's trained supernet, the evaluator of its shared weights, and the study's stand-alone trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.data import BatchLoader, ImageSet
from nas_optuna.data.images import stratified_order
from nas_optuna.devices import laid_out
from nas_optuna.errors import ArchitectureError, StudyError
from nas_optuna.execution.evaluator import Search, digest, space_identity
from nas_optuna.oneshot.ranking import ArchitectureRanker
from nas_optuna.oneshot.score import SharedEvaluator
from nas_optuna.randomness import seeded
from nas_optuna.spaces import SPACES, SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import Supernet, supernet_for
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.schema import TrialKey, attribute
from nas_optuna.study.studies import checkpoint_folder, command
from nas_optuna.study.supernet_result import SupernetResult
from nas_optuna.training import Checkpoint, CheckpointFolder
from nas_optuna.training.checkpoint import require_tensors

SCORED_IMAGES = 500
"""The most held-out images on which shared weights are scored: twice as many hardly rank better."""

OFF, DEVIATIONS = 2, 4
"""By how many images, and standard deviations of a random order, the first images may differ from the classes' shares.

A prefix of a stratified order differs by fewer than two images.
"""


def make_evaluator(
    supernet: Supernet, search: Search, device: torch.device, dtype: torch.dtype = torch.float32
) -> SharedEvaluator:
    """Shared weights on the study's validation images, at most `SCORED_IMAGES`."""
    side, scored = search.space.input_size, stratified_part(search.data.validation, SCORED_IMAGES)
    held_out = BatchLoader(scored, SCORED_IMAGES, side, device)
    training = BatchLoader(search.data.train, 256, side, device)
    # The same order for every path, so that its statistics do not depend on earlier paths.
    return SharedEvaluator(supernet, held_out, partial(training.epoch, 0), dtype)


def stratified_part(images: ImageSet, most: int) -> ImageSet:
    """The first images, or others if these do not have each class in about its share."""
    # Those that were split off have it, shuffled ones nearly; a data set's own validation part may lie class by class.
    first = images.subset(range(min(len(images), most)))
    share = len(first) / len(images)
    due = share * np.array(images.class_sizes)
    off, variances = np.abs(first.class_sizes - due), due * (1 - share)  # in a random order
    each = (off < OFF + DEVIATIONS * np.sqrt(variances)).all()
    # Of many small classes none alone is far off; their squares together are.
    together = (off**2).sum() < variances.sum() + DEVIATIONS * np.sqrt(2 * (variances**2).sum())
    if off.max() < OFF or (each and together):
        return first
    return images.subset(stratified_order(images.labels, 0)[:most])


def calibrated_ranker(
    result: SupernetResult,
    search: Search,
    supernet: Supernet | None,
    device: torch.device,
    ranked: Sequence[Architecture],
) -> ArchitectureRanker:
    """A ranker whose score is fitted to a result's short trainings, but not to trials."""
    spec = SupernetSpec.model_validate(result.settings)
    shared = make_evaluator(supernet, search, device) if supernet else None
    evaluations = spec.strategy_options.get("evaluations", ArchitectureRanker.evaluations)  # needs no code of a user's
    excess, listed = search.candidates.excess, search.candidates.listed_in(search.space)
    made = ArchitectureRanker(search.space, shared, spec, evaluations, excess=excess, listed=listed)
    kept = {search.space.tokens(architecture) for architecture in ranked}
    made.fit([(tokens, value) for tokens, value in result.calibration_set if tokens not in kept], short=True)
    return made


def own_accuracies(study: Study, search: Search) -> dict[Architecture, float]:
    """The study's complete trainings by its recipe: architecture → validation accuracy, 0 … 1."""
    found = {}
    for text, trial in trained_trials(study, search).items():
        with suppress(ArchitectureError):  # outside of the supernet's subspace
            found[search.space.parse(text)] = accuracy_of(trial)
    return found


def trained_trials(study: Study, search: Search) -> dict[str, FrozenTrial]:
    """Architecture → its complete trial by the study's recipe that was trained rather than reused."""
    fingerprint = search.spec.recipe.fingerprint
    return {
        attribute(trial, TrialKey.ARCHITECTURE): trial
        for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if attribute(trial, TrialKey.RECIPE) == fingerprint
        and attribute(trial, TrialKey.DUPLICATE_OF) is None
        and attribute(trial, TrialKey.RUNG) is None  # trained with a clock rather than by the recipe
    }


def accuracy_of(trial: FrozenTrial) -> float:
    """The last accuracy of a complete trial, whatever the study's objectives."""
    accuracy = attribute(trial, TrialKey.ACCURACY)
    if accuracy is None:
        assert trial.last_step is not None
        accuracy = trial.intermediate_values[trial.last_step]
    return float(accuracy)


def supernet_folder(files: Path, study: Study, identity: str) -> Path:
    """Where a supernet's checkpoints are."""
    return checkpoint_folder(files, study.study_name) / f"supernet-{identity}"


def part_of(space: SearchSpace, fixed: Mapping[str, Any]) -> SearchSpace:
    """The part of a space with pinned values, to which a supernet is limited."""
    return space.fixed(fixed) if fixed else space


def source_of(search: Search) -> str:
    """A digest of a space of one's own with its source, as its trials are found by; empty for a built-in one."""
    return "" if search.spec.space.name in SPACES.builtin else digest(space_identity(search.space))


def require_same(found: Checkpoint, search: Search, source: str) -> None:
    """Refuse shared weights of other images, which a deleted study of the same name may have left, or of other code."""
    images = search.data.fingerprint
    for key, what, mine in (("images", "on other images", images), ("source", "by other code", source)):
        if found.progress.get(key, mine) != mine:
            raise ValueError(f"it was trained {what}")


def trained_supernet(
    study: Study, result: SupernetResult, search: Search, device: torch.device, files: Path
) -> Supernet | None:
    """The study's supernet with its trained weights; None if it had no shared weights."""
    if not result.epochs:
        return None
    with seeded(0):
        supernet = supernet_for(part_of(search.space, result.fixed), **result.settings.get("options", {}))
    anew = command(study, "supernet", "train", "--study", study.study_name)
    if result.version != supernet.version:
        raise StudyError(
            f"the supernet of study {study.study_name!r} was trained by another release, which computes otherwise with"
            f" its weights; train it anew: {anew}"
        )
    laid_out(supernet, device)
    folder = supernet_folder(files, study, result.identity)

    def check(found: Checkpoint) -> None:
        require_same(found, search, source_of(search))
        require_tensors(found.weights, supernet.state_dict())

    found = CheckpointFolder(folder).load(check)
    if found is None:
        raise StudyError(
            f"no intact weights of the supernet of study {study.study_name!r} are in {folder}; run this where it was"
            f" trained, or train it anew: {anew}"
        )
    supernet.load_state_dict(found.weights)
    return supernet
