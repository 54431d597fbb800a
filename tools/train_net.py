"""Train a model.

    python tools/train_net.py --config-file CONFIG [flags] [KEY VALUE ...]
    torchrun --nproc_per_node=8 tools/train_net.py --config-file CONFIG [flags] [KEY VALUE ...]

The same command again goes on where the last one stopped; with --max-minutes a long run can be cut into short ones.
"""

import sys
from collections.abc import Sequence

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import parse_tool_arguments
from maskrcnn_benchmark.engine.launch import setup_for_distributed
from maskrcnn_benchmark.engine.training.training_arguments import add_arguments
from maskrcnn_benchmark.engine.training.training_run import run, train
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

__all__ = ["main", "setup_for_distributed", "train"]


def main(argv: Sequence[str] | None = None) -> int:
    """Flags may stand anywhere among the configuration entries."""
    args, opts = parse_tool_arguments(__doc__, add_arguments, argv)
    return run(args, opts)


if __name__ == "__main__":
    sys.exit(report_errors(main))
