"""Logging of a run: to standard output and to a file, from the main process."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskrcnn_benchmark.utils.optional_files import LogFile, LogStream

FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"


def setup_logger(
    name: str, save_dir: str | os.PathLike[str], distributed_rank: int = 0, filename: str = "log.txt"
) -> logging.Logger:
    """Return the logger ``name``, set to write to standard output and, appending, to ``save_dir/filename``.

    The file has everything; messages of the level DEBUG, some of which name every weight of a model, stand there alone.
    Loggers below ``name`` write there too. Ranks other than 0 get no handler, and without ``save_dir`` there is no
    file. Calling it again replaces the handlers instead of adding to them.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    if distributed_rank > 0:
        return logger
    handlers: list[logging.Handler] = [LogStream(sys.stdout)]
    handlers[0].setLevel(logging.INFO)
    if save_dir:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(Path(save_dir, filename), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    return logger


@contextmanager
def only_errors(logger_name: str) -> Iterator[None]:
    """Within the block a logger and those below it tell errors alone."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
