"""What every command shares: how it ends, how it reports a mistake, and how it writes."""

import argparse
import difflib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

OK, PARTIAL_FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: everything done; some inputs failed and were reported; nothing done; stopped by the user."""


class CommandError(Exception):
    """A mistake of the user; the text is one line that names the offending value."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")

    def refuse_unknown_flags(self, words: Sequence[str]) -> None:
        """Raises CommandError for the first word that is an unknown flag, with the known one that it may have meant."""
        known = self._option_string_actions
        for word in words:
            name = word.split("=")[0]
            if re.match(r"--?[A-Za-z]", word) and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                self.error(f"unknown flag {name}" + (f"; did you mean {close[0]}?" if close else ""))


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What the parsers of sub-commands are added to."""


def write(text: str = "") -> None:
    """One piece of the command's result, to standard output."""
    sys.stdout.write(text + "\n")


def report_error(message: object) -> None:
    """One line on standard error."""
    if isinstance(message, OSError) and message.strerror and message.filename is not None:
        message = f"'{os.fsdecode(message.filename)}': {message.strerror}"
    sys.stderr.write(f"glip: error: {one_line(message)}\n")
    sys.stderr.flush()


def report_errors(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; a mistake of the user becomes one line on standard error.

    With the environment variable GLIP_DEBUG set, the mistake is raised with its traceback instead.
    """
    try:
        return command()
    except BrokenPipeError:  # the reader of our output has gone, as in `glip ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except (CommandError, ValueError, OSError, NotImplementedError, FloatingPointError) as error:
        if os.environ.get("GLIP_DEBUG"):
            raise
        report_error(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        report_error("stopped by the user")
        return INTERRUPTED


def check_output_folder(folder: Path, option: str) -> None:
    """Raises CommandError, before any time goes into the work, for a folder in which nothing can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        inside = "" if existing == folder else f"in '{existing}', "
        raise CommandError(f"{option} '{folder}' is {inside}a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CommandError(f"{option} '{folder}': nothing can be written in '{existing}'")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_line(message: object) -> str:
    """The text without line breaks."""
    return " ".join(line.strip() for line in str(message).splitlines())


def set_up_messages() -> None:
    """Warnings of the package go to standard error as one line each; those of the libraries are left out.

    What the terminal's encoding lacks is shown as an escape, so that no name of a file or phrase stops a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("glip: %(levelname)s: %(message)s"))
    handler.addFilter(_is_for_the_user)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it has a handler of its own
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _is_for_the_user(record: logging.LogRecord) -> bool:
    """Errors, and messages of the package, unless its own log shows them already (see utils.logger)."""
    package = "maskrcnn_benchmark"
    return (
        record.name.startswith(package)
        and not logging.getLogger(package).handlers
        or (record.levelno >= logging.ERROR and not record.name.startswith(package))
    )


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return one_line(super().format(record))
