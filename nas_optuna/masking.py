"""Masking of the passwords and tokens in URLs before a text leaves the process.

Where it cannot be known what a password is, or where it ends, too much is replaced rather than too little.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

MASK = "***"

_URL = re.compile(r"^\s*(?:--[\w-]+=)?(?:[^\s:/@]+@)?(?:[A-Za-z][A-Za-z0-9+.-]*:)+/{1,2}[^/]")
"""A text that is one URL, maybe behind what it is for: ``mlflow:http://…``, ``--storage=…``, ``STUDY@…``."""
# Of long texts that are made to be slow: what begins like a login and is none is passed over as a whole.
_LOGIN_IN_A_URL, _LOGIN_IN_A_TEXT = (
    re.compile(rf"(?i)(https?|):(/{{1,2}})((?:(?!://){any_})+)@|:/(?:(?!(?:https?)?://){any_})++")
    for any_ in ("[^\n]", r"\S")
)
"""A password may hold ``/``, ``?`` and even ``@``, so that it ends at the last ``@`` before the next URL.

What was taken for a path has lost one of the slashes.
"""
_ENCODED_LOGIN = re.compile(r"(?i)(?P<kept>%3A(?:%2F){1,2})[^\s&]+(?P<end>%40)|%3A%2F[^\s&]++")
"""In a whole URL that another one holds as a value."""
_NO_SCHEME = re.compile(r"(?P<kept>(?<![^\s'\"=(,])(?://|\\\\)?[\w.%+-]+:)[^\s@/]++(?:(?P<end>@)(?=[\w\[]))?")
"""``me:password@host`` and ``//me:password@host``."""
_PASSWORD = re.compile(
    r"(?i)(?P<kept>(?:password|passwd|pwd)\s?=\s?)(?!\*\*\*)"
    r"(?:(?P<quote>'\"'\"'|['\"])(?:(?:\\.|(?!(?P=quote))[^\\\n])*+|(?:(?!(?<!\\)(?P=quote)).)*)(?P=quote)(?=[\s;'\"]|$)"
    r"|\{[^}\n]{0,4000}+(?:\}\}[^}\n]*+)*\}|[^;&\n'\"]{1,4000}+(?=;\s?\w[\w ]{0,200}+=)"
    r"|(?:[^\s;&'\"]|['\"](?=\w))+)(?P<end>)"
)
"""In a connection string of libpq or ODBC: in quotes, in braces, up to the next key of ODBC, or up to a space.

A shell may have quoted the quotes anew, and a backslash before a quote may be the password's last character.
"""
_ENCODED_PASSWORD = re.compile(r"(?i)(?P<kept>(?:password|passwd|pwd)%(?:25)*3D)[^\s&'\"]+(?P<end>)")
"""In a percent-encoded connection string, as SQLAlchemy takes it in ``odbc_connect=…``."""
_PARAMETER = re.compile(r"[?&#;]([\w.%\[\]-]{1,200})=")
_VALUE = re.compile(r"[^&\s'\"<>)]+?(?=;?(?:[&\s'\"<>)]|$))")
_ENCODED_SIGN = re.compile(r"%(?:25)*[0-9A-Fa-f]{2}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word in a name: ``HTTPProxyKey`` has three."""
_LETTERS = re.compile(
    r"(?i)pass|secret|token|key|cert|credential|signature|authorization|jwt|session|access|private|pwd"
)
_WHOLE_WORD = re.compile(r"(?i)sig|o?auth|sas|code|pw[a-z]*|[a-z]*pw(?:file|hash|id|ord|s)?")
"""Parts of too many other words: design, author, encoded."""


def is_secret(name: str) -> bool:
    """Whether a parameter is called like a secret, however the words of its name are joined."""
    name = _ENCODED_SIGN.sub(" ", name)
    return _LETTERS.search(name) is not None or any(map(_WHOLE_WORD.fullmatch, _WORD.findall(name)))


def mask_urls(text: str) -> str:
    """A text with the passwords and tokens of all URLs in it replaced by ``***``.

    Examples:
        >>> mask_urls("postgresql+psycopg://me:secret@host/studies?sslpassword=secret")
        'postgresql+psycopg://me:***@host/studies?sslpassword=***'
        >>> mask_urls("no answer from ray://:secret@head:10001 and http://token@tracker:5000/#/runs")
        'no answer from ray://:***@head:10001 and http://***@tracker:5000/#/runs'
        >>> mask_urls("sqlite:///nas-optuna.db")
        'sqlite:///nas-optuna.db'
    """
    if "@" not in text and "=" not in text and "%" not in text:
        return text
    text = (_LOGIN_IN_A_URL if _URL.match(text) else _LOGIN_IN_A_TEXT).sub(_without_login, text)
    for pattern in (_ENCODED_LOGIN, _NO_SCHEME, _PASSWORD, _ENCODED_PASSWORD):
        text = pattern.sub(_masked, text)
    return _without_parameters(text)


def _masked(found: re.Match[str]) -> str:
    return found[0] if found["end"] is None else f"{found['kept']}{MASK}{found['end']}"


def _without_parameters(text: str) -> str:
    """A text in which the values of parameters that are called like secrets are masked."""
    parts, end = [], 0
    for found in _PARAMETER.finditer(text):
        if found.start() >= end and is_secret(found[1]) and (value := _VALUE.match(text, found.end())):
            parts += [text[end : found.end()], MASK]
            end = value.end()
    return "".join(parts) + text[end:]


def _without_login(found: re.Match[str]) -> str:
    """A URL up to its host; with HTTP, a name without a password may be a token."""
    scheme, slashes, login = found.groups()
    if login is None:  # passed over
        return found[0]
    name, _, password = login.partition(":")
    if re.search(r"[\s/?#]", name) or not (password or scheme):
        return found[0]  # a path, or a name without a password
    kept = "" if scheme and password[:1] in ("", "@") else f"{name}:"
    return f"{scheme}:{slashes}{kept}{MASK}@"


# --- streams ----------------------------------------------------------------------------------------------------------


_PASSING = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT)
"""Errors of a stream that may take the next line: a reader was slow, a disk is full now."""


def mask_stream(stream: TextIO, *, forgives: bool) -> None:
    """Mask passwords of URLs in everything that is written: a library's warning or a traceback may repeat one.

    What cannot be written to a stream that `forgives` ends no run: a reader may be gone, a disk full.
    """
    write, flush = stream.write, stream.flush
    if getattr(write, "masks", False):
        return
    forgiven: tuple[type[OSError], ...] = (OSError,) if forgives else ()

    def forgiving(step: Callable[..., object], *given: str) -> None:
        try:
            step(*given)
        except forgiven as error:
            if error.errno not in _PASSING:
                discard(stream)

    def masked(text: str) -> int:
        forgiving(write, mask_urls(text))
        return len(text)

    def flushed() -> None:
        forgiving(flush)

    masked.masks = True  # type: ignore[attr-defined]
    stream.write, stream.flush = masked, flushed  # type: ignore[method-assign]


def discard(stream: TextIO) -> None:
    """Discard what is still in the buffer, because the reader is gone or the disk is full."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
