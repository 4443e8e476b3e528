"""A study in optuna-dashboard: notes, files, readable names of attributes; and a server that is safe to run.

The dashboard's own ``save_note`` reads the notes of all trials twice, and importing it takes longer than training a
small network. The dashboard shows the keys of attributes, which are made for programs; its answers are rewritten on
their way to the browser, and what is stored does not change.

Any page that a person visits can make the browser send requests to 127.0.0.1. Two checks stop them: a page whose own
name was made to resolve to 127.0.0.1 (DNS rebinding) still sends that name as the host, and a page of another origin
names itself in ``Origin`` or ``Sec-Fetch-Site``. An artifact of somebody else's study (HTML, SVG) may contain a script,
which must not run in the origin of the dashboard.
"""

from __future__ import annotations

import io
import json
import mimetypes
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nas_optuna.errors import shortened
from nas_optuna.objectives import describe
from nas_optuna.study.optuna_internals import study_id_of, study_system_attributes, trial_id_of
from nas_optuna.study.schema import PREFIX, TrialKey, is_reserved
from nas_optuna.study.transactions import artifacts_of_others, chosen_system_attributes, set_study_system_attributes

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_PREFIX = "dashboard:artifacts:"
"""Prefix of study attributes in which optuna-dashboard looks for a trial's files, even of an ended trial."""
_OF_STUDY = "artifacts:"
"""Prefix of study attributes in which Optuna's ``upload_artifact`` keeps a study's own files."""
DRAWING = "drawing.svg"
NOTE_PART = 2045
"""Characters of a note in one attribute: optuna-dashboard's limit, which every database accepts."""
WIDTH = 64
"""Characters of a trial's attribute, whose line the dashboard does not break; its note holds the whole."""
_NAME = re.compile(r"[0-9a-f-]{36}")
"""The name of a stored file: a UUID, so that no name from a database leads out of the store's folder."""
_STUDY = re.compile(r"/api/studies/\d+")
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
"""Attributes of a trial for people, beside its costs."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"", "none", "same-origin"})
"""``Sec-Fetch-Site`` of the server's own pages and of an address typed in; tools send none."""
_SANDBOX = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"
"""The policy for answers that are not the dashboard's own pages: no scripts, and no origin."""
_PROTECTION = [
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
]
"""Headers that keep a page of another origin from embedding or framing the dashboard."""


class ArtifactFolders(FileSystemArtifactStore):
    """The artifact store of a storage whose studies keep files in several folders; it writes to its own."""

    def __init__(self, own: Path, others: Callable[[], Iterable[Path]]) -> None:
        super().__init__(own)
        self._own, self._others = own, others

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """See `optuna.artifacts.FileSystemArtifactStore`."""
        return self._holding(artifact_id).open_reader(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """See `optuna.artifacts.FileSystemArtifactStore`."""
        self._holding(artifact_id).remove(artifact_id)

    def _holding(self, artifact_id: str) -> FileSystemArtifactStore:
        for folder in chain([self._own], self._others()) if _NAME.fullmatch(artifact_id) else ():
            if (folder / artifact_id).is_file():
                return FileSystemArtifactStore(folder)
        raise ArtifactNotFound("not found")


def keep(store: Path, trial_id: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Write files to the artifact store, and return the study attributes that name them."""
    store.mkdir(parents=True, exist_ok=True)
    writer = FileSystemArtifactStore(store)
    attributes = {}
    try:
        for name, content in files.items():
            number = str(uuid.uuid4())
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            facts = {"artifact_id": number, "filename": name, "mimetype": kind, "encoding": None}
            attributes[f"{_PREFIX}{trial_id}:{number}"] = json.dumps(facts)
            writer.write(number, io.BytesIO(content))
    except BaseException:  # what nothing lists would stay for good
        remove(store, map(_number, attributes))
        raise
    return attributes


def replace(study: Study, store: Path, trial_id: int, files: Mapping[str, bytes]) -> None:
    """Keep files in place of earlier ones of the same name."""
    kept = _kept(attributes_of(study, trial_id), trial_id)
    before = [key for key, facts in kept if facts.get("filename") in files]
    gone = dict.fromkeys(before, "null")  # what optuna-dashboard writes for an artifact that was deleted
    new = keep(store, trial_id, files)
    try:
        set_study_system_attributes(study, gone | new)
    except Exception:  # e.g. the database's disk is full
        remove(store, map(_number, new))
        raise
    remove(store, _own(study, before))


def attributes_of(study: Study, trial_id: int) -> dict[str, Any]:
    """The study attributes that name a trial's files."""
    return chosen_system_attributes(study, starts=[f"{_PREFIX}{trial_id}:"])


def address(study: Study, attributes: Mapping[str, Any], trial_id: int, name: str) -> str | None:
    """The path under which optuna-dashboard serves a trial's file; None if there is no such file."""
    for _, facts in _kept(attributes, trial_id):
        if facts.get("filename") == name:
            return f"/artifacts/{study_id_of(study)}/{trial_id}/{facts.get('artifact_id')}"
    return None


def of_study(study: Study) -> list[str]:
    """The names, within the store, of all files that belong to a study or its trials, and to no other study."""
    return _own(study, (key for key in study_system_attributes(study) if key.startswith((_PREFIX, _OF_STUDY))))


def _own(study: Study, keys: Iterable[str]) -> list[str]:
    """The names of the files that only this study lists, and no copy of it."""
    others = artifacts_of_others(study)
    return [name for key in keys if key not in others and _NAME.fullmatch(name := _number(key))]


def _number(key: str) -> str:
    """The name of a stored file, at the end of the attribute that lists it."""
    return key.rpartition(":")[2]


def remove(store: Path, names: Iterable[str]) -> bool:
    """Remove files of the artifact store; False if one is left, as another user's may be."""
    removed = True
    for name in names:
        try:
            (store / name).unlink(missing_ok=True)
        except NotADirectoryError:  # no store is there
            pass
        except OSError:
            removed = False
    return removed


def _kept(attributes: Mapping[str, Any], trial_id: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The descriptions of a trial's files; one that was deleted is null."""
    for key, value in attributes.items():
        if key.startswith(f"{_PREFIX}{trial_id}:") and (facts := json.loads(value)):
            yield key, facts


def dashboard_note(
    text: str, trial: Trial | FrozenTrial | None = None, attributes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The study's system attributes that hold a note for optuna-dashboard."""
    known, version, part = attributes or {}, *_note_keys(trial)
    parts = {f"{part}{i}": text[start : start + NOTE_PART] for i, start in enumerate(range(0, len(text), NOTE_PART))}
    stale = {key: "" for key in known if key.startswith(part) and key not in parts}
    return parts | stale | {version: (before if isinstance(before := known.get(version), int) else 0) + 1}


def attributes_of_note(study: Study, trial: FrozenTrial | None = None) -> dict[str, Any]:
    """The study attributes that hold its note, or that of one of its trials."""
    version, part = _note_keys(trial)
    return chosen_system_attributes(study, [version], [part])


def note_in(attributes: Mapping[str, Any], trial: FrozenTrial | None = None) -> str:
    """The note of a study, or of one of its trials, among the study's system attributes."""
    version, part = _note_keys(trial)
    if version not in attributes:
        return ""
    return "".join(
        str(attributes.get(f"{part}{i}", "")) for i in range(sum(key.startswith(part) for key in attributes))
    )


def _note_keys(trial: Trial | FrozenTrial | None) -> tuple[str, str]:
    """The key of a note's version, and the prefix of its parts."""
    of = "" if trial is None else f"{trial_id_of(trial)}:"
    return f"dashboard:{of}note_ver", f"dashboard:{of}note_str:"


def with_readable_attributes(application: WSGIApplication) -> WSGIApplication:
    """Rename attributes of trials in the dashboard's answers about a study, and leave out those for programs."""

    def answering(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not _STUDY.fullmatch(environ.get("PATH_INFO", "")) or environ["REQUEST_METHOD"] != "GET":
            return application(environ, start_response)
        began: list[Any] = []

        def start(*arguments: Any) -> Callable[[bytes], object]:
            began.extend(arguments)
            return bytes

        body = b"".join(application(environ, start))
        status, headers = began[0], began[1]
        if status.startswith("200"):
            body = json.dumps(readable(json.loads(body))).encode()
            headers = [(n, v) for n, v in headers if n.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]

    return answering


def readable(answer: dict[str, Any]) -> dict[str, Any]:
    """The dashboard's answer about one study, with names for people; the study's own note tells its settings."""
    if "user_attrs" in answer:
        answer["user_attrs"] = [a for a in answer["user_attrs"] if not a["key"].startswith(PREFIX)]
    for trial in answer.get("trials", []):
        trial["user_attrs"] = trial_rows(trial["user_attrs"])
    union = answer.get("union_user_attrs", [])
    answer["union_user_attrs"] = [a | {"key": name} for a in union if (name := _name(a["key"]))]
    return answer


def trial_rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """A trial's attributes by names for people, ours with short values."""
    named = [(_name(row["key"]), row) for row in rows]
    return [
        row if name == row["key"] else {"key": name, "value": shortened(row["value"], WIDTH)}
        for name, row in named
        if name
    ]


def _name(key: str) -> str | None:
    """The name of a trial's attribute for people; None if it is only for programs."""
    own = key.removeprefix(PREFIX)
    if key in TRIAL_NAMES or own == key:
        return TRIAL_NAMES.get(key, key)
    return None if is_reserved(own) else describe(own).heading


class OwnPagesOnly:
    """A WSGI application that answers only to its own host names on a port, and only to its own pages."""

    def __init__(self, application: WSGIApplication, port: int) -> None:
        names = ("127.0.0.1", "localhost", "[::1]")
        self._application = application
        self._hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse it with status 403 and the reason."""
        if reason := self._refusal(environ):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cross-Origin-Resource-Policy", "same-origin")]
            start_response("403 Forbidden", headers)
            return [reason.encode()]

        def start(status: str, headers: list[tuple[str, str]], *rest: object) -> object:
            left = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
            path = str(environ.get("PATH_INFO", ""))
            own = path == "/" or path.startswith(("/dashboard", "/static/"))
            policy = [] if own else [("Content-Security-Policy", _SANDBOX)]
            return start_response(status, [*left, *_PROTECTION, *policy], *rest)  # type: ignore[arg-type]

        return self._application(environ, start)  # type: ignore[arg-type]

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        host = str(environ.get("HTTP_HOST", "")).lower()
        if host not in self._hosts:
            return f"This server answers to {' and '.join(sorted(self._hosts))} only.\n"
        origin = str(environ.get("HTTP_ORIGIN", ""))
        foreign = bool(origin) and urlsplit(origin).netloc.lower() != host
        site = str(environ.get("HTTP_SEC_FETCH_SITE", ""))
        followed_link = (
            environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
            and environ.get("HTTP_SEC_FETCH_DEST") == "document"
            and environ["REQUEST_METHOD"] in _READING
        )
        if foreign or (site not in _OWN and not followed_link):
            return "This server answers to its own pages only.\n"
        return None


def create_server(host: str, port: int, application: WSGIApplication) -> WSGIServer:
    """A server bound to an address; call its ``serve_forever``."""
    return make_server(host, port, application, server_class=_Server, handler_class=_Handler)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread per request, since a page sends several at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
