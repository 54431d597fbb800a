"""The flags of a training command. Reading a command line needs no PyTorch, so neither does this module."""

import argparse

from maskrcnn_benchmark.engine.common_arguments import add_local_rank, add_max_minutes

RESUME_AUTO, RESUME_NONE = "auto", "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a training command; the configuration entries KEY VALUE ... are not among them."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configuration of model, data and solver")
    add_local_rank(parser)
    parser.add_argument("--skip-test", action="store_true", help="accepted; training does not test at its end")
    parser.add_argument("--use-tensorboard", action="store_true", help="write event files to OUTPUT_DIR")
    parser.add_argument(
        "--save_original_config", action="store_true", help="copy the file to OUTPUT_DIR/config_original.yml"
    )
    parser.add_argument(
        "--disable_output_distributed", action="store_true", help="no print() from processes other than the first"
    )
    parser.add_argument("--override_output_dir", metavar="DIR", help="OUTPUT_DIR, whatever the configuration says")
    parser.add_argument(
        "--resume",
        default=RESUME_AUTO,
        metavar="auto|none|PATH",
        help="auto: go on from the last checkpoint of OUTPUT_DIR if there is one; none: start afresh; or a checkpoint",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="of a MODEL.WEIGHT of another architecture take what fits, if half of it does, instead of an error",
    )
    add_max_minutes(parser)
    parser.add_argument(
        "--profile",
        action="store_true",
        help="train nothing: print parameters, operations, time and memory of one picture, and end",
    )
