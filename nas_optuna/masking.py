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
_QUOTED = r"""(?P<quote>'"'"'|\\?['"])(?:(?!(?P=quote))(?:\\.|[^\n])){0,500}(?P=quote)(?=[\s;&,:)\]}'"\\]|$)"""
"""In the quotes of libpq, which a shell or a text in quotes may have written anew."""
_BRACED = r"\{(?:\}\}|[^}\n]){0,500}\}"
"""In the braces of ODBC, in which ``}}`` is a brace."""
_BARE = r"""(?:[^\s;&'"\\]|\\(?!['"])|['"](?=[^\s;&,:)\]}'"\\]))+"""
"""Up to a space or a sign, but for the quote that ends the text around it."""
_NEXT = r";\s?\w[\w ]*="
"""The next key of a connection string."""
_NAMED = re.compile(
    rf"(?i)((?:password|passwd|pwd(?!\s?=\s?/)|pwd(?=\s?=\s?/[^\s;]{{0,200}}{_NEXT}))\s?=\s?)(?:{_QUOTED}|{_BRACED}|{_BARE})"
)
"""``host=x password=…``, as libpq and ODBC take it; ``PWD=/home/me`` alone is a shell's folder."""
_ODBC = re.compile(
    rf"""(?i)(=[^;=\n]*;\s?(?:password|pwd)\s?=\s?)(?:{_BRACED}|[^;\n'"]+(?={_NEXT}|;?['"]|;?$)|{_BARE})"""
)
"""Behind another key of ODBC, where a password ends at the next key only."""
_ENCODED = re.compile(
    r"(?i)((?:password|passwd|pwd)%(?:25)*3D)(?:%(?:25)*7B(?:%7D%7D|(?!%(?:25)*7D)\S)*%(?:25)*7D"
    r"|(?:(?!%(?:25)*(?:3B|26))[^\s&;'\"])+)"
)
"""A password of ODBC in a percent-encoded connection string, as SQLAlchemy takes it in ``odbc_connect=…``."""
_SHORT = (
    r"(?:(?:(?<![a-z0-9])|(?<=%[0-9a-f]{2}))(?:sig|o?auth|sas|code)(?![a-z])"
    r"|(?-i:(?<=[a-z])(?:Sig|Auth|Sas|Code)(?![a-z])))"
)
"""Names that are parts of other words (design, author), so that they count as whole words only."""
_SECRETS = (
    r"[\w.%-]{0,60}?(?:pass|pw|secret|token|key|cert|credential|signature|authorization|jwt|session|access|private"
    rf"|{_SHORT})[\w.%-]{{0,60}}"
)
_QUERY_IN_A_URL, _QUERY_IN_A_TEXT = (
    re.compile(rf"(?i)((?:[?&#]|(;)){_SECRETS}=)(?(2)[^;{stop}]+|[^{stop}]+)") for stop in ("&\n", r"&\s'\"<>)")
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
    for pattern in (_ODBC, _NAMED, _ENCODED):
        text = pattern.sub(rf"\1{MASK}", text)
    return (_QUERY_IN_A_URL if is_url else _QUERY_IN_A_TEXT).sub(rf"\1{MASK}", text)
