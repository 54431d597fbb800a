"""Flags that several commands share. Reading a command line needs no PyTorch, so neither does this module."""

import argparse


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """The place of the process on its machine, in both spellings of older launchers."""
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, metavar="N",
        help="set by older launchers; torchrun says it in the environment",
    )  # fmt: skip


def add_max_minutes(parser: argparse.ArgumentParser) -> None:
    """The time limit of a run, which `deadline_after` reads."""
    parser.add_argument(
        "--max-minutes", type=float, metavar="M",
        help="save and end successfully after that time; the same command goes on",
    )  # fmt: skip


def deadline_after(max_minutes: float | None, started_s: float) -> float | None:
    """When to stop, on the clock that `started_s` was read from (seconds); None for never.

    Raises: ValueError unless the limit is positive.
    """
    if max_minutes is None:
        return None
    if max_minutes <= 0:
        raise ValueError(f"--max-minutes {max_minutes:g}: give a positive number of minutes")
    return started_s + 60 * max_minutes
