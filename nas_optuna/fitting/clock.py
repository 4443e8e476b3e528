"""What a spec cannot decide where a clock does."""

from __future__ import annotations

from collections.abc import Iterable

from nas_optuna.errors import SpecError
from nas_optuna.spec import StudySpec

_DECIDED = {
    "recipe.epochs": "how many epochs each network has; leave out --epochs (recipe.epochs)",
    "recipe.epoch_size": "how many images an epoch has; leave out recipe.epoch_size",
    "pruner": "when a training ends, and prunes none; leave out --pruner",
    "keep_paused": "when a training ends, and pauses none; leave out --keep-paused",
}
"""What nobody may name, and what the clock does instead."""


def refuse_named(overrides: Iterable[str], *, pruner: str | None = None) -> None:
    """Refuse settings that would be ignored.

    Args:
        overrides: ``"section.key=value"`` strings that somebody gives now.
        pruner: The pruner that somebody names.

    Raises:
        SpecError: With the remedy.
    """
    keys = {text.partition("=")[0].strip() for text in overrides} | ({"pruner"} if pruner else set())
    for key in keys:
        decided = _DECIDED.get("pruner" if key.startswith("pruner.") else key)
        if decided is not None:
            raise SpecError(f"a search with a clock decides {decided}, or use run --trials")


def refuse_undivided(spec: StudySpec) -> None:
    """Refuse a spec that trains a network more than once, or by several recipes.

    Raises:
        SpecError: With the remedy.
    """
    if spec.search:
        raise SpecError("a search with a clock trains every network by one recipe; leave out search, or use --timeout")
    if spec.recipe.repeats > 1:
        raise SpecError(
            f"a search with a clock trains every network once; leave out recipe.repeats={spec.recipe.repeats}, or use"
            " run --trials"
        )
    if spec.recipe.epoch_size is not None:
        refuse_named([f"recipe.epoch_size={spec.recipe.epoch_size}"])
