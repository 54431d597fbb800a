"""The flags of an evaluation command. Reading a command line needs no PyTorch, so neither does this module."""

import argparse

from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION, PRECISION_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of an evaluation command; the configuration entries KEY VALUE ... are not among them."""
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="configuration of the model and the test sets"
    )
    parser.add_argument(
        "--weight", metavar="FILE",
        help="checkpoint, or the name of a published one; MODEL.WEIGHT by default. Results go to OUTPUT_DIR/eval/NAME",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="NAME|DIR",
        help="instead of --config-file and --weight: glip_nano, a published model, or a folder with both",
    )  # fmt: skip
    parser.add_argument(
        "--task_config", metavar="FILE,FILE", help="configurations of test sets, evaluated one after the other"
    )
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, metavar="N",
        help="set by older launchers; torchrun says it in the environment",
    )  # fmt: skip
    parser.add_argument("--world-size", type=int, metavar="N", help="accepted; the launcher says it in the environment")
    parser.add_argument("--dist-url", metavar="URL", help="accepted; the launcher says it in the environment")
    parser.add_argument(
        "--precision", choices=PRECISION_NAMES, default=DEFAULT_PRECISION,
        help="of the numbers on a GPU; default: %(default)s. A CPU computes in fp32",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted evaluation stopped")
    parser.add_argument("--skip-missing", action="store_true", help="leave out pictures whose files are not there")
