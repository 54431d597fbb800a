"""``glip eval``: the same as tools/test_grounding_net.py."""

import argparse

from maskrcnn_benchmark.cli.console import Subparsers
from maskrcnn_benchmark.engine.testing.evaluation_arguments import add_arguments

_EXAMPLES = """examples:
  glip scenes --out DATASET/scenes/val --num 200 --seed 1
  glip eval --model glip_nano OUTPUT_DIR OUTPUT/nano
  glip eval --config-file CONFIG --weight FILE --task_config configs/lvis/minival.yaml TEST.CHUNKED_EVALUATION 40
"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command with its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        help="measure a model on test sets",
        description="Writes figures and predictions to OUTPUT_DIR/eval; with --resume it goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration entries, after the flags")


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns the exit code."""
    from maskrcnn_benchmark.engine.testing import evaluation_run

    return evaluation_run.run(args, args.opts)
