"""Shows what studies and trials remember under names for people, in optuna-dashboard as we serve it.

Optuna keeps attributes under keys that are made for programs. The dashboard prints them as they are, cut at a fixed
length. Here its answers are rewritten on their way to the browser; what is stored does not change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nas_optuna.objectives import describe
from nas_optuna.study.schema import PREFIX, StudyKey, TrialKey, is_reserved
from nas_optuna.study.significance import accuracy_on_test

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_STUDY = re.compile(r"/api/studies/(\d+)")
TRIAL_NAMES = {
    TrialKey.ARCHITECTURE: "architecture",
    TrialKey.ACCURACY: "accuracy",
    TrialKey.SPREAD: "standard deviation over repeats",
    TrialKey.EPOCHS: "epochs",
    TrialKey.SECONDS: "training time (s)",
    TrialKey.DEVICE: "device",
    TrialKey.ORIGIN: "proposed by",
    TrialKey.CAUSE: "why it ended",
    TrialKey.DUPLICATE_OF: "same as trial",
    TrialKey.CONTINUES: "continues trial",
    TrialKey.FEASIBLE: "inside the limits",
}
"""Attributes of a trial that a person may want to see, in the order in which they are shown; costs follow."""

Attribute = dict[str, str]


class ReadableAttributes:
    """Renames attributes in the dashboard's answers about studies, whose user attributes a number gives."""

    def __init__(self, application: WSGIApplication, attributes: Callable[[int], Mapping[str, Any]]) -> None:
        self._application = application
        self._attributes = attributes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        found = _STUDY.fullmatch(environ.get("PATH_INFO", ""))
        if found is None or environ["REQUEST_METHOD"] != "GET":
            return self._application(environ, start_response)
        began: list[Any] = []

        def start(*arguments: Any) -> Callable[[bytes], object]:
            began.extend(arguments)
            return bytes

        parts = self._application(environ, start)
        body = b"".join(parts)
        status, headers = began[0], began[1]
        if status.startswith("200"):
            body = json.dumps(readable(json.loads(body), self._attributes(int(found[1])))).encode()
            headers = [(n, v) for n, v in headers if n.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]


def readable(answer: dict[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of the dashboard's about one study, with names for people."""
    if "user_attrs" in answer:
        own = [a for a in answer["user_attrs"] if not a["key"].startswith(PREFIX)]
        answer["user_attrs"] = own + study_rows(attributes)
    for trial in answer.get("trials", []):
        trial["user_attrs"] = trial_rows(trial["user_attrs"])
    union = answer.get("union_user_attrs", [])
    costs = [a["key"] for a in union if a.get("sortable")]
    names = {a["key"]: _name(a["key"], a["key"] in costs) for a in union}
    answer["union_user_attrs"] = [a | {"key": names[a["key"]]} for a in union if names[a["key"]]]
    return answer


def _name(key: str, is_number: bool) -> str | None:
    """A trial's attribute for a person; None where it is for programs."""
    own = key.removeprefix(PREFIX)
    if key in TRIAL_NAMES or own == key:
        return TRIAL_NAMES.get(key, key)
    return describe(own).heading if is_number and not is_reserved(own) else None


def trial_rows(rows: list[Attribute]) -> list[Attribute]:
    """A trial's attributes: ours by name, then those of others."""
    values = {row["key"]: row["value"] for row in rows if row["key"].startswith(PREFIX)}
    shown = {key: TRIAL_NAMES[key] for key in TRIAL_NAMES if key in values}
    costs = {key: _name(key, _is_number(value)) for key, value in values.items() if key not in shown}
    ours = [{"key": name, "value": values[key]} for key, name in (shown | costs).items() if name]
    return ours + [row for row in rows if not row["key"].startswith(PREFIX)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def study_rows(attributes: Mapping[str, Any]) -> list[Attribute]:
    """What a study is and what retraining found, a short line each."""
    spec = attributes.get(StudyKey.SPEC)
    if not isinstance(spec, dict):
        return []
    rows = {"objectives": ", ".join(spec.get("objectives", []))}
    rows |= {f"limit of {name}": f"{limit:,.6g}" for name, limit in spec.get("limits", {}).items()}
    reports = attributes.get(StudyKey.RETRAINED, [])
    if reports:
        trial, seeds = reports[0].get("trial"), len(reports[0]["seeds"])
        whose = [f"trial {trial}"] * (trial is not None) + [f"mean of {seeds} seeds"] * (seeds > 1)
        rows["test accuracy"] = accuracy_on_test(reports[0]) + (f" ({', '.join(whose)})" if whose else "")
    sections = {n: spec[n] for n in ("data", "space", "sampler", "pruner", "recipe") if isinstance(spec.get(n), dict)}
    rows |= {name: str(section["name"]) for name, section in sections.items() if "name" in section}
    for name, section in sections.items():
        for key, value in section.items():
            if key != "name" and value not in (None, False, {}, []):
                rows[f"{name}: {key.replace('_', ' ')}"] = str(value)
    return [{"key": key, "value": value} for key, value in rows.items()]
