"""``glip train``: the same as tools/train_net.py."""

import argparse

from maskrcnn_benchmark.cli.console import Subparsers
from maskrcnn_benchmark.engine.training.training_arguments import add_arguments

_EXAMPLES = """examples:
  glip scenes --out DATASET/scenes/train --num 2000
  glip train --config-file configs/scenes/glip_nano.yaml SOLVER.IMS_PER_BATCH 8 OUTPUT_DIR OUTPUT/nano
"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command with its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a model from a configuration file",
        description="Writes checkpoints and a log to OUTPUT_DIR; the same command again goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration entries, after the flags")


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    from maskrcnn_benchmark.engine.training import training_run

    return training_run.run(args, args.opts)
