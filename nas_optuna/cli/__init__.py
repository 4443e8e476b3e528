"""The ``nas-optuna`` command: parse, call the library, print. One file a command group."""

from __future__ import annotations

import sys

import typer

from nas_optuna.cli import best, dashboard, data, devices, run, samplers, space, study
from nas_optuna.cli.printing import print_error
from nas_optuna.errors import NasOptunaError

app = typer.Typer(
    name="nas-optuna",
    help="Neural architecture search as a plugin for Optuna.",
    epilog="Example: nas-optuna run --sampler random --trials 20",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
study.register(app)
run.register(app)
best.register(app)
space.register(app)
samplers.register(app)
data.register(app)
devices.register(app)
dashboard.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Instead of ``sys.argv[1:]``.

    Returns:
        0; 2 where the user has to change something, said in one line on stderr; 130 after an interruption.
    """
    try:
        result = app(arguments, standalone_mode=False)
    except NasOptunaError as error:
        print_error(str(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return 130
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        print_error(f"{_message(error)}; see nas-optuna --help")
        return 2
    except BrokenPipeError:  # e.g. `nas-optuna study list | head -1`
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _message(error: Exception) -> str:
    describe = getattr(error, "format_message", None)
    return str(describe() if describe else error).rstrip(".")
