"""The errors that a user can cause or encounter; each message is one line and says what to do."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import os
import re
import reprlib
import sysconfig
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar

from nas_optuna.masking import mask_urls

SHOWN = 80
"""The most characters of a user's value in a message."""
NAMED = 160
"""The most characters of a file name in a message."""
LONGEST_ERROR = 480
"""The most characters of a whole message."""


class NasOptunaError(Exception):
    """Base of every error below; the command line prints its message and exits with `exit_code`.

    A message is one line of at most `LONGEST_ERROR` characters: the middle of a longer one is left out, which keeps the
    problem at its beginning and the remedy at its end.

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
    """A study spec, an option or a name that is not valid."""


class ArchitectureError(NasOptunaError):
    """Params or a string that are not an architecture of the search space."""


class DataError(NasOptunaError):
    """A data set that is absent, incomplete or unusable."""


class StudyError(NasOptunaError):
    """A study or storage that cannot be opened, or does not fit the request."""


class StudyExists(StudyError):  # noqa: N818 - maybe another process has just created it
    """A study that was to be created already exists."""


class Gone(StudyError):  # noqa: N818 - an event rather than a mistake
    """A study or a database that somebody deleted while it was in use."""

    exit_code = 1


class DeviceError(NasOptunaError):
    """A device that is not there."""


class DeviceLostError(DeviceError):
    """A device with which this process can compute nothing any more."""


class TableError(NasOptunaError):
    """A latency table that is damaged, incomplete, or was measured elsewhere."""


class TrainingError(NasOptunaError):
    """A training that cannot go on.

    Attributes:
        cause: What the trial remembers, e.g. ``"non-finite loss"`` or ``"oom"``; by default the message.
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause or message

    def __reduce__(self) -> tuple[type[TrainingError], tuple[str, str]]:
        return type(self), (str(self), self.cause)  # an exception is pickled by its message alone


@contextlib.contextmanager
def needing_every_network(what: str) -> Iterator[None]:
    """Say of a network that cannot be built or run why it matters, and what to do."""
    try:
        yield
    except TrainingError as error:
        remedy = f"{what} needs every network of its space, so mend this one, or take its choice out of the space"
        raise TrainingError(f"{str(error).rstrip('.')}; {remedy}", error.cause) from error


def require_kind(value: object, kind: type | UnionType, what: str, remedy: str) -> None:
    """Refuse an argument of another type than its function takes."""
    if not isinstance(value, kind):
        raise SpecError(f"{what} cannot be of type {type(value).__name__}; {remedy}")


_P = ParamSpec("_P")
_R = TypeVar("_R")
_TAKEN: dict[Any, tuple[Any, str]] = {
    str: (str, "a string"),
    bool: (Integral, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    type(None): (type(None), "None"),
    Callable: (Callable, "a function"),
    **dict.fromkeys((tuple, list, Sequence), (Iterable, "a list")),
    **dict.fromkeys((dict, Mapping), (Mapping, "a dictionary")),
}
"""The type of an argument → what is taken for it, and how that is called."""


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a public function refuse arguments of other types than its annotations name, before anything is done.

    Numbers of NumPy, whole numbers that are written as 1e9, and whatever the system takes for a path become usual ones.
    """

    @functools.wraps(function)
    def checking(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        signature, kinds = _arguments(function)
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # which the call itself tells better
            return function(*args, **kwargs)
        for name, value in given.arguments.items():
            if value is None and signature.parameters[name].default == ():
                value = ()  # as for Optuna's own functions, e.g. for callbacks
            given.arguments[name] = _taken(value, name, kinds.get(name, {}))
        return function(*given.args, **given.kwargs)

    return checking


def with_types(function: Callable[..., Any], options: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Options for a function, of which numbers, texts and switches must be what its annotations say.

    Examples:
        >>> def sampler(*, children: int = 8) -> None: ...
        >>> with_types(sampler, {"children": 2.0}, "sampler")
        {'children': 2}
    """
    try:
        kinds = _arguments.__wrapped__(function)[1]
    except ValueError:  # some functions written in C have no signature
        return dict(options)
    found = {}
    for name, value in options.items():
        simple = {kind: word for kind, word in kinds.get(name, {}).items() if kind in _SIMPLE}
        if simple == {Integral: _TAKEN[bool][1]} and value in ("True", "False"):  # as studies of before have stored it
            value = value == "True"
        try:
            found[name] = _taken(value, name, simple if simple == kinds.get(name) else {})
        except SpecError:
            words = " or ".join(word.lower() for kind, word in simple.items() if kind is not type(None))
            raise SpecError(f"{section}.{name}: it must be {words}, got {shown(value)}") from None
    return found


_SIMPLE = (Integral, Real, str, type(None))


def _taken(value: Any, name: str, kinds: Mapping[Any, str]) -> Any:
    if kinds:
        if Path in kinds and isinstance(value, os.PathLike if str in kinds else os.PathLike | str):
            value = Path(value)
        if not kinds.keys().isdisjoint((Integral, Real)) and getattr(value, "shape", None) == ():
            value = value.item()
        if isinstance(value, float) and value.is_integer() and Real not in kinds and Integral in kinds:
            value = int(value)
        if isinstance(value, Iterator) and Iterable in kinds:
            value = list(value)  # it could be read only once
        *others, last = kinds.values()
        remedy = f"give {', '.join(others)} or {last}" if others else f"give {last}"
        no_list = isinstance(value, str | bytes | Mapping)
        kind: Any = tuple(each for each in kinds if not (each is Iterable and no_list))
        require_kind(value, kind, name, remedy)
    return value


@functools.cache
def _arguments(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, dict[Any, str]]]:
    """A function's signature, and the types that its arguments can have; those that may have any are left out."""
    signature = inspect.signature(function)
    names = getattr(function.__init__ if inspect.isclass(function) else function, "__globals__", {})
    found: dict[str, dict[Any, str]] = {}
    for name, each in signature.parameters.items():
        if each.annotation is each.empty or each.kind is each.VAR_KEYWORD:
            continue
        about = type("About", (), {"__annotations__": {name: each.annotation}})
        with contextlib.suppress(Exception):  # a type that is imported only where it is needed, or a user's remark
            hint = typing.get_type_hints(about, names)[name]
            parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
            parts = tuple(type(typing.get_args(p)[0]) if typing.get_origin(p) is Literal else p for p in parts)
            kinds = [typing.get_origin(part) or part for part in parts]
            # A protocol would miss what an object hands on by __getattr__.
            if all(isinstance(k, type) and k is not Any and not getattr(k, "_is_protocol", False) for k in kinds):
                found[name] = dict(_TAKEN.get(kind) or (kind, _called(kind)) for kind in kinds)
    return signature, found


def _called(kind: type) -> str:
    """How a message calls a type of ours: by its ``given_as``, where it is made by something else than its name."""
    return getattr(kind, "given_as", None) or with_article(kind.__name__)


def with_article(name: str) -> str:
    """The name of a type in a sentence."""
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def shown(value: object) -> str:
    """A user's value for a message: its `repr` with at most `SHOWN` characters and no passwords of URLs."""
    value = mask_urls(value) if isinstance(value, str) else value
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    try:
        return shortened(brief.repr(value), SHOWN)
    except (ValueError, RecursionError):  # e.g. an integer with more digits than Python prints
        return f"a {type(value).__name__} too large to show"


def named(path: object) -> str:
    """A user's path, key or sentence for a message: like `shown`, but without quotes."""
    return shortened(printable(str(path)), NAMED)


def place_of(error: BaseException) -> str:
    """The last line outside of libraries that an error passed, as ``" (mine.py:12)"``; empty if there is none."""
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(__file__))
    known = tuple(folder + os.sep for folder in folders)
    own = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename  # relative in compiled libraries, and "<…>" where there is none
        if os.path.isabs(file) and not file.startswith(known) and not _INSTALLED & set(file.split(os.sep)):
            own = f" ({shortened(printable(os.path.basename(file)), 60)}:{line})"
    return own


_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of libraries, of which the system's and the user's may be in use beside those of a virtual environment."""


def reason_of(error: BaseException, limit: int = NAMED) -> str:
    """An error's message in one line of at most `limit` characters; outside of libraries as `describe_error` has it."""
    if place_of(error):
        return describe_error(error, limit)
    return _message_of(error, limit)


def _message_of(error: BaseException, limit: int) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else error
    return shortened(printable(str(told)), limit) or type(error).__name__


def describe_error(error: BaseException, limit: int = 120) -> str:
    """An error's type, message and `place_of` in one line of at most `limit` characters.

    Examples:
        >>> describe_error(ValueError("no such layer"))
        'ValueError: no such layer'
    """
    kind, told, place = type(error).__name__, _message_of(error, limit), place_of(error)
    return shortened(kind if told == kind else f"{kind}: {told}", limit - len(place)) + place


_PLAINER = {
    r"Input should be a valid integer(, unable to parse string as an integer|, got a number with a fractional part)?": (
        "it must be a whole number"
    ),
    r"Input should be a valid number(, unable to parse string as a number)?": "it must be a number",
    r"Input should be a valid boolean(, unable to interpret input)?": "it must be true or false",
    r"Input should be a valid dictionary( or instance of \w+)?": "it must be a section of settings",
    r"Input should be a valid tuple": "it must be a list",
    r"(Tuple|List) should have at (least|most) (\d+ items?) after validation, not \d+": r"it must have at \2 \3",
    r"String should have at least 1 character": "it must not be empty",
    r"\S+ is not in the range x>=(\d+)": r"it must be at least \1",
    r"Input should be greater than or equal to": "it must be at least",
    r"Input should be less than or equal to": "it must be at most",
    r"Input should be": "it must be",
}


def ended_by_code(ended: SystemExit) -> SpecError:
    """What is said where a user's code would end the process."""
    status = ("" if ended.code in (None, "") else f" (SystemExit: {ended})") + place_of(ended)
    return SpecError(f"code of yours ends the process{status}; let it raise an error")


def plainer(message: str) -> str:
    """A parser's message about a refused value in plain words."""
    for theirs, ours in _PLAINER.items():
        message = re.sub(theirs, ours, message)
    return message


def printable(text: str) -> str:
    """A text in one line, without control characters and without passwords of URLs."""
    text = mask_urls(text)
    line = " ".join(text.split()) if "\n" in text or "\r" in text or "\t" in text else text
    # Joiners shape letters of Persian and Hindi, and make one emoji of several.
    return "".join(c if c.isprintable() or c in " \u200c\u200d" else "\N{REPLACEMENT CHARACTER}" for c in line)


def shortened(text: str, limit: int, ellipsis: str = "…") -> str:
    """A text whose middle is replaced by an ellipsis if it is longer than `limit` characters.

    Examples:
        >>> shortened("abcdefgh", 5)
        'ab…gh'
    """
    if len(text) <= limit:
        return text
    room = max(0, limit - len(ellipsis))
    return f"{text[: room - room // 2]}{ellipsis}{text[len(text) - room // 2 :]}"


def unknown(kind: str, name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str:
    """The sentence for an unknown name, with the nearest known one; `meant` is as for `nearest`."""
    names = sorted(known)
    near = nearest(name, names, meant)
    some = f"choose one of: {', '.join(names)}" if names else "there is none"
    hint = f"did you mean {shown(near)}?" if near else some
    return f"unknown {kind} {shown(name)}; {hint}"


def nearest(name: str, known: Iterable[str], meant: Mapping[str, str] | None = None) -> str | None:
    """The known name that was most likely meant; None if none is similar."""
    # In this order: one that differs only in case and separators; the one in `meant` (words of other tools, in lower
    # case without other characters -> the name here); one that starts with the name, has it among its words, or is a
    # prefix of it; one with two thirds of its letters in their order.
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


class Interrupted(Exception):  # noqa: N818 - not an error, since the user asked for it
    """A training was asked to stop between two steps; its last checkpoint is kept."""
