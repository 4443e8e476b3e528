"""Masking of the passwords and tokens in URLs before a text leaves the process."""

from __future__ import annotations

import re

MASK = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_URL = re.compile(rf"^\s*(?:{_SCHEME}:)*{_SCHEME}:/{{1,2}}[^/]")
"""A text that is one URL, maybe behind the name of what it is for: ``mlflow:http://…``."""
_LOGIN = r"(:/{{1,2}}[^\s:/?#@]*:)(?:(?!://){})+@"
"""A password may hold ``/``, ``?`` and even ``@``, so that it ends at the last ``@`` before the next URL.

What was taken for a path has lost one of the slashes.
"""
_LOGIN_IN_A_URL, _LOGIN_IN_A_TEXT = (re.compile(_LOGIN.format(any_)) for any_ in ("[^\n]", r"\S"))
_NAMELESS = [re.compile(rf"(:/{{1,2}})[^\s:/?#@]*:@(?:(?!://){any_})*@") for any_ in ("[^\n]", r"\S")]
"""Between two ``@`` is a password, or a path behind a token, so that the name goes as well."""
_ENCODED_LOGIN = re.compile(r"(?i)(%3A(?:%2F){2}(?:(?!%3A|%40|%2F)\S)*%3A)(?:(?!%3A%2F)\S)+?%40")
"""A whole URL that another one holds as a value."""
_ENCODED_TOKEN = re.compile(r"(?i)(https?%3A(?:%2F){1,2})(?:(?!%3A|%40|%2F|%3F|%23)[^\s&])+(?:%3A)?(?=%40)")
_TOKEN = re.compile(r"(?i)(https?:/{1,2})[^\s:/?#@]+:?@")
"""A name without a password, or with an empty one, which with HTTP is a token."""
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
_ENCODED_SIGN = re.compile(r"%(?:25)*[0-9A-Fa-f]{2}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word in a name: ``HTTPProxyKey`` has three."""
_ENGLISH = re.compile(
    r"(?i)(?:by|com|encom|over|sur|tres|under)pass|(?:by|com|dis|encom|im|over|sur|tres|un|under)?pass(?:able|ages?|ed"
    r"|engers?|ers?|es|ing|ions?|ionate|ively|ive|ivity)|pwm|(?:under)?secretar(?:ial|iats?|ies|y)"
    r"|secret(?:ed|es?|ions?|ive|ly)|tokeni[sz](?:ations?|ed|ers?|es?|ing)|(?:don|dic|flun|hic|ho|hoc|hot|joc|lac|low"
    r"|malar|mic|mon|po|tur|turn|whis)keys?|key(?:ed|ing|(?:binding|board|frame|hole|note|pad|point|stone|stroke|word)s?)"
    r"|(?:as|un)?certain(?:ly|s|ties|ty)?|(?:dis)?concert(?:ed|os?|s)?|(?:dispos|ob|pos|repos)sessions?"
    r"|(?:in)?access(?:ed|es|ibility|ibl[ey]|ing|ories|ory)|privateers?|privately"
)
"""Words in which the letters of a secret's name stand for something else. Whatever else holds them counts as a secret,
because nobody knows all names that are written as one word, such as PGPASSWORD and accesskeyid."""
_LETTERS = re.compile(
    r"(?i)pass|secret|token|key|cert|credential|signature|authorization|jwt|session|access|private|pwd"
)
_WHOLE_WORD = re.compile(r"(?i)sig|o?auth|sas|code|pw[a-z]*|[a-z]*pw(?:file|hash|id|ord|s)?")
"""Parts of too many other words: design, author, step_width."""
_PARAMETER = re.compile(r"[?&#;]([\w.%\[\]-]{1,200})=")
_IN_A_URL, _IN_A_TEXT = "&\n", r"&\s'\"<>)"
"""Where a parameter's value ends."""


def is_secret(name: str) -> bool:
    """Whether a parameter is called like a secret: by the words of its name, however these are joined."""
    name = _ENCODED_SIGN.sub(" ", name)
    name = _WORD.sub(lambda word: " " if _ENGLISH.fullmatch(word[0]) else word[0], name)
    return _LETTERS.search(name) is not None or any(map(_WHOLE_WORD.fullmatch, _WORD.findall(name)))


def _without_parameters(text: str, stop: str) -> str:
    """A text with the values of all parameters that are called like a secret replaced."""
    names = "|".join(re.escape(name) for name in set(_PARAMETER.findall(text)) if is_secret(name))
    return re.sub(rf"((?:[?&#]|(;))(?:{names})=)(?(2)[^;{stop}]+|[^{stop}]+)", rf"\1{MASK}", text) if names else text


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
    text = _NAMELESS[not is_url].sub(rf"\1{MASK}@", text)
    text = (_LOGIN_IN_A_URL if is_url else _LOGIN_IN_A_TEXT).sub(rf"\1{MASK}@", text)
    text = _ENCODED_LOGIN.sub(rf"\1{MASK}%40", text)
    text = _ENCODED_TOKEN.sub(rf"\1{MASK}", text)
    text = _NO_SCHEME.sub(rf"\1{MASK}@", _TOKEN.sub(rf"\1{MASK}@", text))
    for pattern in (_ODBC, _NAMED, _ENCODED):
        text = pattern.sub(rf"\1{MASK}", text)
    return _without_parameters(text, _IN_A_URL if is_url else _IN_A_TEXT)
