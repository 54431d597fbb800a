"""`glip train`: the same as tools/train_net.py."""

import argparse

from maskrcnn_benchmark.engine import training_run


def add_parser(subparsers) -> None:
    """Adds the command with its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser("train", help="train a model from a configuration file")
    training_run.add_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration entries, after the flags")


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    return training_run.run(args, args.opts)
