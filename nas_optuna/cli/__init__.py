"""The ``nas-optuna`` command: parse, call the library, print. Related commands share a file."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from nas_optuna import __version__
from nas_optuna.cli import latency, lists, networks, options, printing, results, run, study, supernet
from nas_optuna.cli.options import Command, Group, with_options
from nas_optuna.cli.printing import end_facts, prepare_streams, print_error, write
from nas_optuna.errors import Gone, NasOptunaError, describe_error, nearest, place_of, plainer, shown
from nas_optuna.masking import discard
from nas_optuna.study.storage import failure, is_of_the_deleted

_GROUPS = {
    "study": (
        "Create, list, show, delete and export studies, and release their trials.",
        "create mine --spec mnist-fast",
    ),
    "latency": ("Measure latency tables, and check them.", "measure --space conv --device cpu --out table.json"),
    "space": ("Show search spaces.", "show --set space.depth=20"),
    "data": ("List and fetch data sets.", "fetch mnist"),
    "supernet": (
        "Train a supernet, export its best architecture, check whether its ranking can be believed.",
        "train --study s --spec digits-supernet",
    ),
}
"""Groups of commands, in the order of the help: their purpose, and an example."""
_COMMANDS: dict[str, tuple[Callable[..., object], str]] = {
    "fit": (networks.fit, "photos/ --within 10m --out model"),
    "study create": (study.create, "mine --spec mnist-fast --epochs 3"),
    "study list": (study.list_, "--json"),
    "study show": (study.show, "nas"),
    "study delete": (study.delete, "nas --yes"),
    "study release": (study.release, "nas 3"),
    "study export": (study.export, "nas --format csv --out nas.csv"),
    "run": (run.run, "--sampler random --trials 20"),
    "best": (results.best, "--study nas --json"),
    "draw": (results.draw, "--trial best --out best.svg"),
    "report": (results.report, "--study nas --out report.html"),
    "compare": (results.compare, "random tpe --out compare.html"),
    "retrain": (networks.retrain, "--trial best --seeds 3"),
    "export": (networks.export, "--trial best --out model"),
    "pareto": (results.pareto, "--study cost --reference latency_ms=2"),
    "latency measure": (latency.measure, "--space conv --device cpu --out table.json"),
    "latency check": (latency.check, "table.json --json"),
    "latency kit": (latency.kit, "--space conv --out kit"),
    "space show": (lists.space_show, "--space macro"),
    "list": (lists.list_, "samplers --json"),
    "samplers": (lists.listing("samplers", "List every sampler, as nas-optuna list samplers does."), "--json"),
    "devices": (lists.listing("devices", "List every device, as nas-optuna list devices does."), "--json"),
    "data list": (lists.listing("data", "List the data sets that have a name, as nas-optuna list data does."), ""),
    "data fetch": (lists.data_fetch, "mnist --data-dir data"),
    "dashboard": (results.dashboard, "--port 8080"),
    "supernet train": (supernet.train, "--study s --spec digits-supernet --latency-weight 0.1"),
    "supernet export": (supernet.export, "--study s --top 3 --out fixed.json"),
    "supernet check": (supernet.check, "--study s --architectures 20"),
}
"""Commands, in the order of the help: their function, and an example."""
_HIDDEN = ("samplers", "devices")
"""Commands that the help does not list, because ``list`` prints the same."""


def _made() -> typer.Typer:
    top = typer.Typer(
        name="nas-optuna",
        cls=Group,
        help="Neural architecture search as a plugin for Optuna.",
        epilog="Example: nas-optuna run --sampler random --trials 20",
        no_args_is_help=True,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,  # neither our help nor a user's defaults are markup
        pretty_exceptions_enable=False,
    )
    groups = {"": top}
    for name, (purpose, example) in _GROUPS.items():
        groups[name] = typer.Typer(
            cls=Group, help=purpose, no_args_is_help=True, epilog=f"Example: nas-optuna {name} {example}"
        )
        groups[name].callback()(lambda: None)  # or typer would replace a group of one command by that command
        top.add_typer(groups[name], name=name)
    for words, (function, example) in _COMMANDS.items():
        group, _, name = words.rpartition(" ")
        epilog = f"Example: nas-optuna {words} {example}".rstrip()
        add = groups[group].command(name, cls=Command, epilog=epilog, hidden=words in _HIDDEN)
        add(with_options(function))
    return top


app = _made()

KEPT_KERNELS, KEPT_BY_SUPERNETS = 256, 16384
"""How many compiled kernels oneDNN, and its cache in torch, may keep: one for each shape.

With their default of 1,024 a search, in which every trial has new shapes, used a tenth more memory after 200 trials; a
deep network needs about a hundred. Each step of a supernet draws from a few thousand shapes: with all of them cached, a
step of five layers at 16×16 takes a third less time, and some 80 MB more memory.
"""


def set_defaults(command: str = "") -> None:
    """Set environment variables that make training on the CPU fast, unless the user has; call it before torch's import.

    The command line and the benchmarks do; importing the library changes nothing in the host process.
    """
    # Activations of large images are allocated and freed in every step; with huge pages the kernel clears far fewer.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Waiting threads sleep rather than spin. Spinning costs a factor of ten or more if another process (a worker, a
    # browser) wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kept = str(KEPT_BY_SUPERNETS if command == "supernet" else KEPT_KERNELS)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", kept)
    os.environ.setdefault("LRU_CACHE_CAPACITY", kept)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, 1 if something in use has gone, 2 if the user must change something, or 130."""
    if arguments is not None:  # the caller's process began earlier, and goes on after it
        options.began = time.monotonic()
        return _run(arguments)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody lets it be ignored
        signal.signal(signal.SIGINT, _interrupt)
    try:
        return _run(None)
    finally:
        end_facts()


def _interrupt(*_: object) -> None:
    """Raise `KeyboardInterrupt`, or end at once where it would abort the process: in the C++ of torch's import."""
    if getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        print_error("interrupted")
        os._exit(130)
    raise KeyboardInterrupt


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether an error has come up after Ctrl-C, e.g. from a module that was being imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _run(arguments: list[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    set_defaults(next((word for word in words if not word.startswith("-")), ""))
    prepare_streams(alone=arguments is None)
    printing.quiet = False
    try:
        with _without_chatter():
            result = app(arguments, standalone_mode=False)  # only for None, * and ~ are expanded on Windows
            sys.stdout.flush()
    except NasOptunaError as error:
        print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return 130
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except (BrokenPipeError, SystemExit) as error:  # e.g. `nas-optuna study list | head -1`
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # the parser and rich turn a broken pipe into an exit
        discard(sys.stdout)
        return 0
    except OSError as error:
        print_error(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}{place_of(error)}")
        discard(sys.stdout)
        return 2
    except Exception as error:
        if _is_interrupted(error):
            print_error("interrupted")
            return 130
        if "optuna" in sys.modules and is_of_the_deleted(error):
            print_error("the study was deleted while this command used it")
            return Gone.exit_code
        problem = failure(error) if "optuna" in sys.modules else None
        if problem is None and place_of(error):
            problem = f"your code failed: {describe_error(error, 300)}"
        if problem is None and isinstance(error, UnicodeEncodeError):
            problem = f"{shown(error.object)} is not text in UTF-8; write names and paths in UTF-8"
        if problem is None:
            raise
        print_error(problem)
        return 2
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        write(f"nas-optuna {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only facts and errors, no remarks.")] = False,
) -> None:
    printing.quiet = quiet


def _usage(error: Exception) -> int:
    """Report what is wrong with a command's words; without any words, show its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        write(context.get_help() + "\n")
        return 0
    print_error(f"{_message(error)}; see nas-optuna{'' if context is None else _words(context)} --help")
    return 2


def _words(context: typer.Context) -> str:
    """The words of a command, each after a space."""
    return context.command_path.removeprefix(context.find_root().command_path)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hide Optuna's log lines, whose content our tables show, and its warnings about experimental features."""
    # By their text, because importing Optuna's classes would cost every command half a second.
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is experimental")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    if context is not None and (option := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        known = (name for parameter in context.command.params for name in parameter.opts if name.startswith("--"))
        near = nearest(option, known, _ELSEWHERE)
        hint = f"; did you mean {near}?" if near else ""
        if any(option in parameter.opts for parameter in context.find_root().command.params):
            hint = f"; it stands before the command: nas-optuna {option}{_words(context)}"
        return f"No such option: {option}{hint}"
    describe = getattr(error, "format_message", None)
    return plainer(str(describe() if describe else error).rstrip(".").replace(": Value error,", ":"))


_ELSEWHERE = {
    **dict.fromkeys(("gpu", "gpus", "cuda", "cpu", "accelerator"), "--device"),
    **dict.fromkeys(("jobs", "njobs", "parallel", "processes", "numworkers"), "--workers"),
    **dict.fromkeys(("db", "database", "url"), "--storage"),
    **dict.fromkeys(("output", "outdir", "outputdir", "save", "dest"), "--out"),
    **dict.fromkeys(("config", "preset"), "--spec"),
    **dict.fromkeys(("time", "minutes", "duration", "budget"), "--within"),
    **dict.fromkeys(("metric", "optimize"), "--objective"),
    **dict.fromkeys(("weights", "checkpoint"), "--network"),
    **dict.fromkeys(("flops", "maxflops"), "--max-macs"),
    **dict.fromkeys(("arch", "model", "searchspace"), "--space"),
    "name": "--study",
    "learningrate": "--lr",
}
"""What other tools call an option -> its name here, if the command has it."""
