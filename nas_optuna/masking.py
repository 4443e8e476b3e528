"""Masking of the passwords and tokens in URLs before a text leaves the process.

Where it cannot be known what a password is, or where it ends, too much is replaced rather than too little.
"""

from __future__ import annotations

import re

MASK = "***"

_URL = re.compile(r"^\s*(?:--[\w-]+=)?(?:[^\s:/@]+@)?(?:[A-Za-z][A-Za-z0-9+.-]*:)+/{1,2}[^/]")
"""A text that is one URL, maybe behind what it is for: ``mlflow:http://…``, ``--storage=…``, ``STUDY@…``."""
_LOGIN_IN_A_URL, _LOGIN_IN_A_TEXT = (
    re.compile(rf"(?i)(https?|):(/{{1,2}})((?:(?!://){any_})+)@") for any_ in ("[^\n]", r"\S")
)
"""A password may hold ``/``, ``?`` and even ``@``, so that it ends at the last ``@`` before the next URL.

What was taken for a path has lost one of the slashes.
"""
_ENCODED_LOGIN = re.compile(r"(?i)(%3A(?:%2F){1,2})[^\s&]+%40")
"""In a whole URL that another one holds as a value."""
_NO_SCHEME = re.compile(r"((?<![^\s'\"=(,])(?://|\\\\)?[\w.%+-]+:)[^\s@/]+@(?=[\w\[])")
"""``me:password@host`` and ``//me:password@host``."""
_PASSWORD = re.compile(
    r"(?i)((?:password|passwd|pwd)\s?=\s?)(?!\*\*\*)"
    r"(?:(?P<quote>'\"'\"'|['\"])(?:\\.|(?!(?P=quote)).)*(?P=quote)(?=[\s;'\"]|$)|\{(?:\}\}|[^}\n])*\}"
    r"|[^;&\n'\"]+(?=;\s?\w[\w ]*=)|(?:[^\s;&'\"]|['\"](?=\w))+)"
)
"""In a connection string of libpq or ODBC: in quotes, in braces, up to the next key of ODBC, or up to a space.

A shell may have quoted the quotes anew.
"""
_ENCODED_PASSWORD = re.compile(r"(?i)((?:password|passwd|pwd)%(?:25)*3D)[^\s&'\"]+")
"""In a percent-encoded connection string, as SQLAlchemy takes it in ``odbc_connect=…``."""
_PARAMETER = re.compile(r"[?&#;]([\w.%\[\]-]{1,200})=")
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
    for pattern, end in ((_ENCODED_LOGIN, "%40"), (_NO_SCHEME, "@"), (_PASSWORD, ""), (_ENCODED_PASSWORD, "")):
        text = pattern.sub(rf"\1{MASK}{end}", text)
    names = "|".join(re.escape(name) for name in set(_PARAMETER.findall(text)) if is_secret(name))
    value = r"[^&\s'\"<>)]+?(?=;?(?:[&\s'\"<>)]|$))"
    return re.sub(rf"([?&#;](?:{names})=){value}", rf"\1{MASK}", text) if names else text


def _without_login(found: re.Match[str]) -> str:
    """A URL up to its host; with HTTP, a name without a password may be a token."""
    scheme, slashes, login = found.groups()
    name, _, password = login.partition(":")
    if re.search(r"[\s/?#]", name) or not (password or scheme):
        return found[0]  # a path, or a name without a password
    kept = "" if scheme and password[:1] in ("", "@") else f"{name}:"
    return f"{scheme}:{slashes}{kept}{MASK}@"
