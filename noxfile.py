"""The checks that CI runs, in the environment that calls them: ``nox``, or one of them, e.g. ``nox -s lint``."""

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "imports", "docs", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Look at style and formatting."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports run downward only."""
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a link that leads nowhere is an error."""
    session.run("mkdocs", "build", "--strict", "--quiet")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests, or those that are named: ``nox -s tests -- -m slow``."""
    session.run("pytest", *session.posargs)
