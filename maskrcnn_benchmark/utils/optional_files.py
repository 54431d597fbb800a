"""Log and event files: one that cannot be written, on a full disk for example, is reported once and stops no run."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class _OnceReported(logging.Handler):
    """Reports the first record that cannot be written, instead of a traceback for every one."""

    is_reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.is_reported:
            self.is_reported = True  # before the report, which comes here again
            logger.warning("%s cannot be written: %s", getattr(self, "baseFilename", "standard output"), error.strerror)


class LogFile(_OnceReported, logging.FileHandler):
    """A handler that appends to a file."""

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was still to be written
            logger.warning("%s is incomplete: %s", self.baseFilename, error.strerror)


class LogStream(_OnceReported, logging.StreamHandler):
    """A handler that writes to a stream."""


def make_event_writer(folder: str | os.PathLike[str]) -> Any:
    """A TensorBoard writer. By itself it would wait forever once its thread has met a full disk."""
    from tensorboardX import SummaryWriter  # slow to import, and needed only here

    writer = SummaryWriter(str(folder))
    file = writer.file_writer.event_writer._ev_writer
    failed: list[OSError] = []
    for name in ("write_event", "flush", "close"):
        setattr(file, name, _reported_once(getattr(file, name), f"the event file in {folder}", failed))
    return writer


def _reported_once(write: Callable[..., Any], what: str, failed: list[OSError]) -> Callable[..., Any]:
    """`write`, which after a first failure does nothing any more."""

    def call(*arguments: Any) -> Any:
        if failed:
            return None
        try:
            return write(*arguments)
        except OSError as error:
            failed.append(error)
            logger.warning("%s cannot be written: %s", what, error.strerror)
            return None

    return call
