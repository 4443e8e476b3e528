"""No password of a URL is left in a text that may be shown."""

import random
import shlex
import time

import pytest

from nas_optuna.errors import NasOptunaError, SpecError, named, shown
from nas_optuna.masking import mask_urls

SECRET = "hunter2"
URLS = [
    f"postgresql+psycopg://me:{SECRET}@host/studies",
    f"postgresql://me:a:{SECRET}/?#@b@host/studies",
    f"postgresql://me:a%40%3A{SECRET}@host/studies",
    f"mysql+pymysql://host/db?user=me&password={SECRET}&charset=utf8",
    f"postgresql://host/db?sslpassword={SECRET}",
    f"ray://me:{SECRET}@head:10001",
    f"ray://:{SECRET}@head:10001",
    f"mlflow:https://me:{SECRET}@tracker:5000/#/experiments",
    f"https://{SECRET}@tracker/path",
    f"https://tracker/path?x=1&access_token={SECRET}#here",
    f"https://tracker/path?X-Amz-Signature={SECRET}",
    f"https://tracker/?next=http%3A%2F%2Fme%3A{SECRET}%40host%2F",
    f"https://tracker/?next=http%3A%2F%2F{SECRET}%3A%40host%2F",
    f"postgresql://host/db?options=https%3a%2f%2f{SECRET}%40host",
    f"me:{SECRET}@head:6379",
    f"s3:/me:{SECRET}@bucket/x",
    f"https:/{SECRET}@tracker/path",
    f"https://{SECRET}:@tracker/path",
    f"https://{SECRET}:@tracker/path?mail=me@example.org",
    f"https://me:@my {SECRET}@tracker/path",
    f"postgresql://me:two {SECRET} words@host/db",
    f"--storage=postgresql://me:two {SECRET} words@host/db",
    f"--learn-from=old@postgresql://me:two {SECRET} words@host/db",
    f"https://account.blob.example/models?sv=2024&sig={SECRET}&se=2027",
    f"https://tracker/?jwt={SECRET}",
    f"https://tracker/?client_auth={SECRET}",
    f"//me:{SECRET}@host/share",
    f"host=tracker password={SECRET} dbname=studies",
    f"Server=host;Pwd={SECRET};",
    f"host=tracker password='my {SECRET}' dbname=studies",
    f"host=tracker password='my \\' {SECRET}' dbname=studies",
    f'host=tracker password = "my {SECRET}"',
    f"Driver=x;Pwd={{a;b}}}} {SECRET}}};UID=me",
    f"Driver=x;Pwd={{a;b {SECRET}}}",
    f"Driver=x;Pwd=my {SECRET};UID=me",
    f"Driver=x;Pwd=/my/{SECRET}",
    f"PWD=/my/{SECRET};UID=me",
    f"PWD={SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BUID%3Dme%3BPWD%3D{SECRET}%3BPort%3D1",
    f"mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D%7Ba%3Bb+{SECRET}%7D%3BPort%3D1",
    f"https://tracker/?next=mssql%3A%2F%2F%3Fodbc_connect%3DPWD%253D{SECRET}%253B",
    f"db_password={SECRET}",
    f"PGPASSWORD={SECRET}",
    f"mlflow_tracking_password={SECRET}",
    f"https://tracker/?authCode={SECRET}",
    f"https://tracker/?x%5Bauth%5D={SECRET}",
    f"https://tracker/?code={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_shows_no_secret(url: str) -> None:
    masked = mask_urls(url)
    assert SECRET not in masked
    assert "***" in masked
    assert mask_urls(masked) == masked
    assert SECRET not in shown(url) + named(url)
    with pytest.raises(NasOptunaError, match=r"\*\*\*"):
        raise SpecError(url)


def test_a_text_shows_no_secret_of_several() -> None:
    text = "cannot copy to " + ", then ".join(f"'{url}'" for url in URLS if " " not in url) + "; no answer"
    masked = mask_urls(text)
    assert SECRET not in masked
    assert masked.startswith("cannot copy to 'postgresql+psycopg://me:***@host/studies', then ")
    assert masked.endswith("; no answer")


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///nas-optuna.db",
        "sqlite:////srv/a:b@c.db?mode=rw",
        "postgresql://me@host:5432/db?application_name=x",
        "postgresql://me:@host/db",
        "https://host/?next=https%3A%2F%2Fhost&mail=me%40example.org",
        "f16k3s1-f48k5s2",
        "/data/a:b/c@d.npz",
        "see http://localhost:8080/dashboard, or write to me@example.org",
        "nas-optuna run --set recipe.epochs=3 --objective 'accuracy*(macs/1M)^-0.07' 100%",
        "https://host/?design=a&author=b&barcode=c&decoder=d&authority=e&codec=f&disaster=g&signal=h",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert mask_urls(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"password='my {SECRET}' dbname=x", "password=*** dbname=x"),
        (shlex.quote(f"host=h password='my {SECRET}'"), "'host=h password=***'"),
        (f"no answer of Server=h;PWD={SECRET}; start it", "no answer of Server=h;PWD=***; start it"),
        (f'{{"url":"mysql://h/db?password={SECRET}","n":1}}', '{"url":"mysql://h/db?password=***","n":1}'),
    ],
)
def test_what_is_beside_a_secret_stays(text: str, masked: str) -> None:
    assert mask_urls(text) == masked


@pytest.mark.parametrize("url", [*URLS, "postgresql://host/db?password="])
def test_a_command_that_is_typed_again_keeps_its_words(url: str) -> None:
    words = ["nas-optuna", "run", "--storage", mask_urls(url), "--study", "my own"]
    assert shlex.split(mask_urls(shlex.join(words))) == words


SLOW = [
    "x",
    "@:/",
    "http:/x",
    "@%3A%2F",
    "%3A%2F%40%3A%2F",
    "=a:",
    "pwd={",
    "pwd=a ",
    "pwd='",
    "pwd='\\",
    "pwd=\"\\'",
    "\\",
]
SLOW += ["'\"'\"'", "pwd='\"'\"'", "pwd=}}", "pwd={}}", ";a ", "pwd%25", "?key=", "&", "a@", "//a:", "http://"]


@pytest.mark.parametrize("end", ["", "=", "@", "'"])
@pytest.mark.parametrize("part", SLOW)
def test_a_long_text_is_read_once(part: str, end: str) -> None:
    for begin in ("", "pwd='", "pwd=a ", "http://a b"):
        began = time.process_time()
        mask_urls(begin + part * (20_000 // len(part)) + end)
        assert time.process_time() - began < 2, (begin, part, end)


def test_every_parameter_of_a_long_text_is_masked() -> None:
    names = [f"key{i}" for i in range(2_000)]
    assert mask_urls("&".join(f"?{name}={SECRET}" for name in names)) == "&".join(f"?{name}=***" for name in names)


LETTERS = ["key", "password", "passwd", "pwd", "pw", "pass", "secret", "token", "cert", "credentials", "signature"]
LETTERS += ["authorization", "jwt", "session", "access", "private"]
"""Whatever holds these letters is a secret."""
WORDS = ["sig", "sas", "code", "auth", "oauth"]
"""These count as whole words only, because they are parts of too many others."""
HARMLESS = ["upward", "shipwreck", "stopwatch", "design", "author", "barcode"]
OTHERS = ["x", "my", "api", "aws", "pg", "ssl", "id", "2", "file", "name", "db", "user", "the", "v1", "openai", "com"]
STYLES = {
    "snake": "_".join,
    "kebab": "-".join,
    "dotted": ".".join,
    "SNAKE": lambda words: "_".join(words).upper(),
    "Pascal": lambda words: "".join(word.capitalize() for word in words),
    "camel": lambda words: words[0] + "".join(word.capitalize() for word in words[1:]),
    "brackets": lambda words: "[".join(words) + "]",
    "encoded": lambda words: "%5B".join(words) + "%5D",
    "twice encoded": lambda words: "%255B".join(words) + "%255D",
}
"""How the words of a name are joined."""


def shows(name: str) -> bool:
    """Whether a parameter of that name is shown wherever it stands."""
    texts = [
        f"https://host/?{name}={SECRET}",
        f"https://host/?x=1&{name}={SECRET}&x=2",
        f"no answer from 'https://host/#{name}={SECRET}', which is away",
        f"Server=h;{name}={SECRET};Port=1",
        f"https://host/?x=1;{name}={SECRET}",
    ]
    shown_in = {SECRET in mask_urls(text) for text in texts}
    assert len(shown_in) == 1, f"{name} is shown in some places only"
    return shown_in == {True}


@pytest.mark.parametrize("seed", range(8))
def test_a_parameter_is_masked_by_the_words_of_its_name(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(50):
        harmless = draw.sample([*HARMLESS, *OTHERS], draw.randint(1, 3))
        with_a_secret = harmless.copy()
        with_a_secret.insert(draw.randint(0, len(harmless)), draw.choice([*LETTERS, *WORDS]))
        for style, write in STYLES.items():
            assert shows(write(harmless)), style
            assert not shows(write(with_a_secret)), style


@pytest.mark.parametrize("secret", LETTERS)
def test_a_name_that_is_written_as_one_word_is_masked(secret: str) -> None:
    for word in (*OTHERS, "mon", "monkey", "keyboard", "zz", "tokenizer"):
        for name in (word + secret, f"{word}{secret}2", f"{word}{secret}".upper(), f"x-{word}{secret}"):
            assert not shows(name)
        assert secret == "pw" or not shows(f"{word}{secret}id")  # pw is within other words, as in "stepwidth"
    assert not shows(f"{secret}id")
    if secret != "pw":
        assert not shows("".join(letter.upper() if i % 2 else letter for i, letter in enumerate(secret)))


NAMES = ["api_key", "apiKey", "APIKEY", "access-key", "X-Key", "X-API-Key", "PGPASSWORD", "awsSecretAccessKey", "dbpw"]
NAMES += [
    "AccountKey",
    "sslkey",
    "accesskeyid",
    "userpass",
    "pwhash",
    "dbpwfile",
    "commonkey",
    "monkeyKey",
    "monKey",
    "IDToken",
]
NAMES += ["sessionid", "sslcert", "JWTs", "passWord", "oAuth", "OAuth2", "code_verifier", "SASToken"]


@pytest.mark.parametrize("name", NAMES)
def test_these_names_are_secrets(name: str) -> None:
    assert not shows(name)
