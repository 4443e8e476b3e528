"""The errors that a user can cause or meet; each message is one line and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasOptunaError(Exception):
    """Base of every error below; the command line prints its message and exits with code 2."""


class SpecError(NasOptunaError):
    """A study spec, an option or a name that cannot be honoured."""


class ArchitectureError(NasOptunaError):
    """Params or a string that are not a point of the search space."""


class DataError(NasOptunaError):
    """A data set that is absent, incomplete or unusable."""


class StudyError(NasOptunaError):
    """A study or storage that cannot be opened, or does not fit what is asked of it."""


class DeviceError(NasOptunaError):
    """A device that is not there."""


class TableError(NasOptunaError):
    """A latency table that is damaged, incomplete, or was measured elsewhere."""


class TrainingError(NasOptunaError):
    """A training that cannot go on; `cause` is the short word kept with the trial.

    Attributes:
        cause: e.g. ``"non-finite loss"`` or ``"oom"``.
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str, str]]:
        return type(self), (str(self), self.cause)  # an exception is pickled by its message alone


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that nobody knows, with the nearest one that somebody does.

    Args:
        kind: What was named, e.g. ``"sampler"``.
        name: The name as it was given.
        known: The names that would have been right.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(names) or '(none)'}"
    return f"unknown {kind} {name!r}; {hint}"


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training stopped between two steps because it was asked to; its last checkpoint is kept."""
