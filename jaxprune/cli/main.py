"""The entry point: parse, run one command, print. The only place that writes to stdout.

With `--json`, stdout is exactly one JSON object, also for errors; everything else goes to stderr. Exit codes: 0 done,
1 a bug of ours, 2 an error that the user can mend, 130 interrupted.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from ..doubts import LOGGER
from ..errors import JaxpruneError
from ..jsonio import dumps
from ..settings import FormerName
from . import bench, compare, demo, embed, evaluate, export, finetune, generate, inspect, plan, predict, prune, recap
from .outcome import Outcome
from .told import in_flags

COMMANDS = (prune, finetune, recap, evaluate, predict, embed, generate, compare, plan, inspect, bench, export, demo)


class UsageError(JaxpruneError):
    """A command line that does not parse."""


class Parser(argparse.ArgumentParser):
    """Raises instead of printing, so that argparse's errors look like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.rstrip('.')}; see {self.prog} --help.")


def parser(words: Sequence[str] = ()) -> Parser:
    """All commands and their flags; those of another package's method too, where the command line names it."""
    top = Parser(prog="jaxprune", description="Structured pruning of Transformer checkpoints.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"jaxprune {_version()}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        about = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=about, description=module.__doc__, allow_abbrev=False)
        if module in (prune, plan) and name in words[:1]:
            module.add_arguments(command, words)
        else:
            module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
        command.add_argument("--quiet", action="store_true", help="no progress bars")
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv
    # Notices of tokenizer and compiler libraries ("PyTorch was not found") say nothing about the run.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _stdout_kept_clean(as_json), _former_names_told(), _doubts_as_data():
            outcome = _run(argv)
    except SystemExit as stop:  # --help and --version have printed already
        return stop.code if isinstance(stop.code, int) else 0
    except JaxpruneError as error:
        return _fail(in_flags(_line(error), _names()), as_json, 2)
    except KeyboardInterrupt as stop:
        return _fail(_line(stop) or "interrupted.", as_json, 130)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}.", as_json, 2)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # XLA's word for it, inside a runtime error of several lines
            return _fail("the device is out of memory; `jaxprune plan` says what a run needs.", as_json, 2)
        traceback.print_exc(file=sys.stderr)
        return _fail(f"internal error, please report it: {type(error).__name__}: {_line(error)}", as_json, 1)
    _show(outcome, as_json)
    return 0


def _names() -> set[str]:
    """What all flags of all commands are called in Python."""
    commands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {action.dest for command in commands.choices.values() for action in command._actions}


def _run(argv: Sequence[str]) -> Outcome:
    arguments = parser(argv).parse_args(argv)
    return arguments.run(arguments)


def _show(outcome: Outcome, as_json: bool) -> None:
    for warning in dict.fromkeys(outcome.data.get("warnings", [])):
        print(f"jaxprune: warning: {warning}", file=sys.stderr)
    if as_json:
        print(dumps(outcome.data), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    # Tables keep their width in a pipe, where no terminal says how wide it is.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)
    for item in outcome.show:
        if isinstance(item, Table) and item.title is not None:
            # A line of its own: above the table a path would be broken at the table's width.
            console.print(item.title, style="table.title", soft_wrap=True)
            item.title = None
        console.print(item)


def _fail(message: str, as_json: bool, code: int) -> int:
    if as_json:
        print(dumps({"error": message}), flush=True)
    else:
        print(f"jaxprune: error: {message}", file=sys.stderr)
    return code


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def _former_names_told() -> Iterator[None]:
    """Say a flag's old name in one line, as all warnings are said here."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def told(message: Any, category: Any, *where: Any) -> None:
            if issubclass(category, FormerName):
                print(f"jaxprune: warning: {message}", file=sys.stderr)
            else:
                plain(message, category, *where)

        warnings.showwarning = told
        yield


@contextmanager
def _doubts_as_data() -> Iterator[None]:
    """While a command runs, doubts come as its warnings alone."""
    before, LOGGER.disabled = LOGGER.disabled, True
    try:
        yield
    finally:
        LOGGER.disabled = before


@contextmanager
def _stdout_kept_clean(active: bool) -> Iterator[None]:
    """While a `--json` command runs, whatever libraries print to stdout goes to stderr, from C++ as well."""
    if not active:
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no stdout at all
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _version() -> str:
    try:
        return version("jaxprune")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
