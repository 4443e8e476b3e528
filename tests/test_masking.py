"""No password of a URL is left in a text that may be shown."""

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
    f"me:{SECRET}@head:6379",
    f"s3:/me:{SECRET}@bucket/x",
    f"https:/{SECRET}@tracker/path",
    f"postgresql://me:two {SECRET} words@host/db",
    f"https://account.blob.example/models?sv=2024&sig={SECRET}&se=2027",
    f"https://tracker/?jwt={SECRET}",
    f"https://tracker/?client_auth={SECRET}",
    f"//me:{SECRET}@host/share",
    f"host=tracker password={SECRET} dbname=studies",
    f"Server=host;Pwd={SECRET};",
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
        "f16k3s1-f48k5s2",
        "/data/a:b/c@d.npz",
        "see http://localhost:8080/dashboard, or write to me@example.org",
        "nas-optuna run --set recipe.epochs=3 --objective 'accuracy*(macs/1M)^-0.07' 100%",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert mask_urls(text) == text
