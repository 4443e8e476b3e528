"""What of a text may be shown: the passwords of the URLs in it are replaced before it leaves the process."""

from __future__ import annotations

import re

MASK = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"^\s*(?:{_SCHEME}:)*{_SCHEME}:/{{1,2}}[^/]")
"""A text that is one URL, maybe behind the name of what it is for: ``mlflow:http://…``."""
_LOGIN = r"(:/{{1,2}}[^\s:/?#@]*:)(?:(?!://){})*@"
"""A password may hold ``/``, ``?`` and even ``@``, so that it ends at the last ``@`` before the next URL.

What was taken for a path has lost one of the slashes.
"""
_LOGIN_IN_A_URL, _LOGIN_IN_A_TEXT = (re.compile(_LOGIN.format(any_)) for any_ in ("[^\n]", r"\S"))
_ENCODED_LOGIN = re.compile(r"(?i)(%3A(?:%2F){2}(?:(?!%3A|%40|%2F)\S)*%3A)(?:(?!%3A%2F)\S)*?%40")
"""A whole URL that another one holds as a value."""
_TOKEN = re.compile(r"(?i)(https?:/{1,2})[^\s:/?#@]+@")
"""A name without a password, which with HTTP is a token."""
_NO_SCHEME = re.compile(r"((?<![^\s'\"=(,])(?://|\\\\)?[\w.%+-]+:)[^\s@/]+@(?=[\w\[])")
"""``me:password@host`` and ``//me:password@host``."""
_NAMED = re.compile(r"(?i)(?<![\w.])((?:password|passwd|pwd)\s?=\s?)[^\s;&]+")
"""``host=x password=…``, as libpq and ODBC take it."""
_SECRETS = (
    r"[\w.%-]{0,60}?(?:pass|pw|secret|token|key|cert|credential|sig|auth|jwt|sas|session|access|code|private)"
    r"[\w.%-]{0,60}"
)
_QUERY_IN_A_URL, _QUERY_IN_A_TEXT = (
    re.compile(rf"(?i)([?&;#]{_SECRETS}=)[^{stop}]+") for stop in ("&\n", r"&\s'\"<>)")
)


def mask_urls(text: str) -> str:
    """A text with the passwords and tokens of all URLs in it replaced by ``***``.

    Where it cannot be known what a password is, too much is replaced rather than too little.

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
    is_url = _URL.match(text) is not None
    text = (_LOGIN_IN_A_URL if is_url else _LOGIN_IN_A_TEXT).sub(rf"\1{MASK}@", text)
    text = _ENCODED_LOGIN.sub(rf"\1{MASK}%40", text)
    text = _NO_SCHEME.sub(rf"\1{MASK}@", _TOKEN.sub(rf"\1{MASK}@", text))
    text = _NAMED.sub(rf"\1{MASK}", text)
    return (_QUERY_IN_A_URL if is_url else _QUERY_IN_A_TEXT).sub(rf"\1{MASK}", text)
