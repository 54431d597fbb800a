"""What the programs in tools/ share: flags may stand anywhere among configuration entries."""

import argparse
import sys
from collections.abc import Callable, Sequence

from maskrcnn_benchmark.cli.console import Parser

_ENTRIES = """\
KEY VALUE ... are entries that change the configuration, such as SOLVER.IMS_PER_BATCH 8; they may stand before, among
or after the flags.
"""


def parse_tool_arguments(
    description: str | None, add_arguments: Callable[[argparse.ArgumentParser], None], argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the configuration entries KEY VALUE ... that stand before, among or after them.

    Raises: CommandError for a wrong command line.
    """
    parser = Parser(
        description=description,
        epilog=_ENTRIES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    parser.refuse_unknown_flags(words)
    return parser.parse_known_args(words)


def run_evaluation(description: str | None, argv: Sequence[str] | None = None) -> int:
    """A program that evaluates: reads its command line, evaluates, and returns the exit code."""
    from maskrcnn_benchmark.engine.testing import evaluation_arguments

    args, opts = parse_tool_arguments(description, evaluation_arguments.add_arguments, argv)
    from maskrcnn_benchmark.engine.testing import evaluation_run

    return evaluation_run.run(args, opts)


def run_visualization(description: str | None, argv: Sequence[str] | None = None) -> int:
    """A program that draws: reads its command line, draws, and returns the exit code."""
    from maskrcnn_benchmark.engine.testing import evaluation_arguments

    args, opts = parse_tool_arguments(description, evaluation_arguments.add_drawing_arguments, argv)
    from maskrcnn_benchmark.engine.testing import visualization_run

    return visualization_run.run(args, opts)


def run_checkpoint_evaluation(description: str | None, argv: Sequence[str] | None = None) -> int:
    """A program that evaluates the checkpoints of a run: reads its command line, and returns the exit code."""
    from maskrcnn_benchmark.engine.testing import checkpoint_evaluation

    args, opts = parse_tool_arguments(description, checkpoint_evaluation.add_arguments, argv)
    return checkpoint_evaluation.run(args, opts)
