"""The flags of an evaluation command. Reading a command line needs no PyTorch, so neither does this module."""

import argparse

from maskrcnn_benchmark.engine.common_arguments import add_local_rank
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
        "--task_config", metavar="FILE,FILE",
        help="configurations of test sets, evaluated one after the other; odinw_13 and odinw_35 stand for their files",
    )  # fmt: skip
    add_local_rank(parser)
    parser.add_argument("--world-size", type=int, metavar="N", help="accepted; the launcher says it in the environment")
    parser.add_argument("--dist-url", metavar="URL", help="accepted; the launcher says it in the environment")
    parser.add_argument(
        "--precision", choices=PRECISION_NAMES, default=DEFAULT_PRECISION,
        help="of the numbers on a GPU; default: %(default)s. A CPU computes in fp32",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted evaluation stopped")
    parser.add_argument("--skip-missing", action="store_true", help="leave out pictures whose files are not there")
    parser.add_argument(
        "--save-vis", type=int, default=0, metavar="N",
        help="draw the first N pictures of every test set with what was found and what is there, in the folder vis",
    )  # fmt: skip


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that draws what is found on pictures of test sets."""
    add_arguments(parser)
    parser.add_argument("--image_index", default="0", metavar="N,N-M", help="pictures to draw; default: %(default)s")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.6,
        metavar="SCORE",
        help="boxes drawn have scores above; default: %(default)s",
    )
    parser.add_argument("--box_pixel", type=int, default=3, metavar="N", help="width of lines; default: %(default)s")
    parser.add_argument("--text_size", type=float, default=1.0, metavar="X", help="factor on the size of letters")
    parser.add_argument("--vis-dir", default="visualize", metavar="DIR", help="default: %(default)s")
    for name in ("--alpha", "--text_pixel", "--text_offset", "--text_offset_original", "--color"):
        parser.add_argument(
            name, type=float, metavar="X", help="accepted; labels find their place and colour themselves"
        )
