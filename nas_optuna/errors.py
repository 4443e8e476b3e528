"""The errors that a user can cause or meet; each message is one line and says what to do."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping

from nas_optuna.masking import mask_urls

SHOWN = 80
"""Characters of a user's value that a message repeats at most."""
NAMED = 160
"""Characters of a file name that a message repeats at most."""
LONGEST_ERROR = 480
"""Characters of a whole message, whatever values of a user are in it."""


class NasOptunaError(Exception):
    """Base of every error below; the command line prints its message and exits with `exit_code`.

    A message is one line of at most `LONGEST_ERROR` characters: the middle of a longer one is left out, so that its
    beginning, which names the problem, and its end, which names the remedy, are kept.

    Examples:
        >>> from nas_optuna import create_space
        >>> try:
        ...     create_space("cnov", {}, in_channels=1, classes=10, input_size=28)
        ... except NasOptunaError as error:
        ...     print(error)
        unknown space 'cnov'; did you mean 'conv'?
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(printable(message), LONGEST_ERROR))


class SpecError(NasOptunaError):
    """A study spec, an option or a name that cannot be honoured."""


class ArchitectureError(NasOptunaError):
    """Params or a string that are not a point of the search space."""


class DataError(NasOptunaError):
    """A data set that is absent, incomplete or unusable."""


class StudyError(NasOptunaError):
    """A study or storage that cannot be opened, or does not fit what is asked of it."""


class StudyExists(StudyError):  # noqa: N818 - what another process did, maybe just now
    """A study that was to be created is there already."""


class Gone(StudyError):  # noqa: N818 - what happened, rather than what is wrong
    """A study or a database that somebody deleted while it was in use: nothing that the user typed is wrong."""

    exit_code = 1


class DeviceError(NasOptunaError):
    """A device that is not there."""


class TableError(NasOptunaError):
    """A latency table that is damaged, incomplete, or was measured elsewhere."""


class TrainingError(NasOptunaError):
    """A training that cannot go on.

    Attributes:
        cause: What the trial remembers, e.g. ``"non-finite loss"`` or ``"oom"``; the message where nothing is given.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str, str]]:
        return type(self), (str(self), self.cause)  # an exception is pickled by its message alone


def shown(value: object) -> str:
    """A value of a user as a message repeats it: as in Python, at most `SHOWN` characters, no passwords of URLs."""
    value = mask_urls(value) if isinstance(value, str) else value
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    try:
        return shortened(brief.repr(value), SHOWN)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes
        return f"a {type(value).__name__} too large to show"


def named(path: object) -> str:
    """A path, key or sentence of a user as a message repeats it: without quotes, otherwise as `shown` does."""
    return shortened(printable(str(path)), NAMED)


def reason_of(error: BaseException, limit: int = NAMED) -> str:
    """What an error says, in one line of at most `limit` characters for the end of a message."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else error
    return shortened(printable(str(told)), limit) or type(error).__name__


def describe_error(error: BaseException, limit: int = 120) -> str:
    """An error's type and message in one line of at most `limit` characters.

    Examples:
        >>> describe_error(ValueError("no such layer"))
        'ValueError: no such layer'
    """
    kind, told = type(error).__name__, reason_of(error, limit)
    return shortened(kind if told == kind else f"{kind}: {told}", limit)


_PLAINER = {
    r"Input should be a valid integer(, unable to parse string as an integer|, got a number with a fractional part)?": (
        "it must be a whole number"
    ),
    r"Input should be a valid number(, unable to parse string as a number)?": "it must be a number",
    r"Input should be a valid boolean(, unable to interpret input)?": "it must be true or false",
    r"Input should be a valid dictionary or instance of \w+": "it must be a section of settings",
    r"Input should be a valid tuple": "it must be a list",
    r"(Tuple|List) should have at (least|most) (\d+ items?) after validation, not \d+": r"it must have at \2 \3",
    r"Input should be greater than or equal to": "it must be at least",
    r"Input should be less than or equal to": "it must be at most",
    r"Input should be": "it must be",
}


def plainer(message: str) -> str:
    """What a parser says of a value that it refuses, in words for a person."""
    for theirs, ours in _PLAINER.items():
        message = re.sub(theirs, ours, message)
    return message


def printable(text: str) -> str:
    """A text in one line, with nothing in it that a terminal would obey, and no password of a URL."""
    text = mask_urls(text)
    line = " ".join(text.split()) if "\n" in text or "\r" in text or "\t" in text else text
    return "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in line)


def shortened(text: str, limit: int, ellipsis: str = "…") -> str:
    """A text, with its middle replaced by an ellipsis where it is longer than `limit` characters.

    Examples:
        >>> shortened("abcdefgh", 5)
        'ab…gh'
    """
    if len(text) <= limit:
        return text
    room = max(0, limit - len(ellipsis))
    return f"{text[: room - room // 2]}{ellipsis}{text[len(text) - room // 2 :]}"


def unknown(kind: str, name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str:
    """The sentence for a name that nobody knows, with the nearest one that somebody does; `meant` as for `nearest`."""
    names = sorted(known)
    near = nearest(name, names, meant)
    some = f"choose one of: {', '.join(names)}" if names else "there is none"
    hint = f"did you mean {shown(near)}?" if near else some
    return f"unknown {kind} {shown(name)}; {hint}"


def nearest(name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str | None:
    """The known name that somebody most likely wanted to write; None if that is anybody's guess."""
    # The one that differs in case and separators only, else what `meant` says (words of other tools, in small letters
    # without other signs -> what each is called here), else the one that is begun or continued by the name, or has it
    # among its words, else one with two thirds of its letters in their order.
    names = sorted(known, key=lambda each: (len(each), each))
    plain, word = {each: _letters(each) for each in names}, _letters(name[:SHOWN])
    words = {each: re.split(r"[\W_]+", each.casefold()) for each in names}
    begun = [n for n in names if len(word) > 2 and plain[n].startswith(word)]
    continued = [n for n in names if len(plain[n]) > 2 and word.startswith(plain[n])]
    found = (
        *(n for n in names if plain[n] == word),
        *(n for n in [(meant or {}).get(word)] if n in plain),
        *begun,
        *(n for n in names if len(word) > 1 and word in words[n]),
        *reversed(continued),
        *(n for n in names if plain[n] in difflib.get_close_matches(word, plain.values(), n=1, cutoff=0.65)),
    )
    return found[0] if found else None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """Training stopped between two steps because it was asked to; its last checkpoint is kept."""
