"""Commands that a message tells a person to type next."""

from __future__ import annotations

import shlex

from optuna.study import Study

from nas_optuna.masking import mask_urls
from nas_optuna.study.optuna_internals import url_of
from nas_optuna.study.storage import storage_url


def command(study: Study | str, *words: str) -> str:
    """A command for a study, or for the URL of its storage, as a shell needs it; passwords are masked.

    Examples:
        >>> import optuna
        >>> from nas_optuna.study.storage import open_storage
        >>> study = optuna.create_study(study_name="my own", storage=open_storage("sqlite:///:memory:"))
        >>> command(study, "run", "--study", study.study_name)
        "nas-optuna run --study 'my own' --storage sqlite:///:memory:"
    """
    url = study if isinstance(study, str) else url_of(study)
    elsewhere = ("--storage", mask_urls(url)) if url is not None and url != storage_url() else ()
    return shlex.join(["nas-optuna", *words, *elsewhere])
