"""The command line of tools/pseudo_label.py."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.cli.console import OK, PARTIAL_FAILURE, CommandError, Parser, check_output_folder, write
from maskrcnn_benchmark.cli.predict import (
    add_model_arguments,
    add_selection_arguments,
    check_model_arguments,
    count,
    load_detector,
)


def parse_arguments(prog: str, description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; needs no PyTorch."""
    parser = Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", nargs="+", action="extend", required=True, metavar="PATH",
        help="JSON lines (.jsonl) with file_name and caption; tar files, a folder or a pattern of them; or the YAML "
        "file of TSV files with captions",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures of JSON lines; default: where the lines are"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the labels")
    add_model_arguments(parser, batch_size=8)
    add_selection_arguments(parser)
    parser.add_argument(
        "--nms",
        type=float,
        metavar="IOU",
        help="overlap at which boxes of a phrase are one; default: the model's",
    )
    parser.add_argument(
        "--min-boxes", type=int, default=1, metavar="N", help="leave out pairs with fewer boxes; default: %(default)s"
    )
    parser.add_argument(
        "--format", choices=("v1", "v2"), default="v1", dest="version",
        help="of the records (DATASETS.CAPTION_FORMAT_VERSION): boxes one by one, or by phrase; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--on-error", choices=("skip", "raise"), default="skip",
        help="at broken pictures and unusable captions: report and leave out, or stop; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--pairs-per-shard", type=count, default=1000, metavar="N",
        help="of JSON lines and TSV files, the most that a stop loses; a tar file is a shard; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=count, default=4, metavar="N", help="that decode pictures, per process; default: %(default)s"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Labels, and shows the statistics; returns the exit code."""
    check_output_folder(args.out, "--out")
    check_model_arguments(args)
    if args.images is not None and not any(path.endswith((".jsonl", ".ndjson")) for path in args.pairs):
        raise CommandError(f"--images {args.images} belongs to JSON lines, but --pairs names none (.jsonl)")
    from maskrcnn_benchmark.data.image_text_pairs import find_shards
    from maskrcnn_benchmark.engine.devices import resolve_device
    from maskrcnn_benchmark.engine.launch import process_group
    from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label import LabelOptions
    from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label_run import DATASET, STATISTICS, label_pairs
    from maskrcnn_benchmark.utils import comm
    from maskrcnn_benchmark.utils.logger import setup_logger

    options = LabelOptions(
        args.threshold, args.nms, args.one_label, args.top, args.min_boxes, args.version, args.on_error,
        args.batch_size, args.threads,
    )  # fmt: skip
    shards = find_shards(args.pairs, args.images, args.pairs_per_shard)
    found = resolve_device(args.device)
    with process_group(args.device or found.type) as device:
        args.device = str(device)
        setup_logger("maskrcnn_benchmark", str(args.out), comm.get_rank())
        logging.getLogger(__name__).info("%d shards, %d processes", len(shards), comm.get_world_size())
        outcome = label_pairs(shards, args.out, lambda: load_detector(args), options, _description(args))
        is_main = comm.is_main_process()
    if is_main:
        write(outcome.as_text())
        for name, reason in sorted(outcome.failed.items()):
            write(f"shard {name} failed: {reason}")
        write(f"written to {args.out / (DATASET if outcome.is_complete else STATISTICS)}")
    return OK if outcome.is_complete else PARTIAL_FAILURE


def _description(args: argparse.Namespace) -> dict[str, object]:
    """What the labels depend on."""
    from maskrcnn_benchmark.engine.testing.evaluation_run import weight_state

    names = ("threshold", "nms", "one_label", "top", "min_boxes", "version")
    model = args.model if args.config_file is None else [str(args.config_file), *weight_state(str(args.weights))]
    images = None if args.images is None else str(args.images)
    return {"model": model, "images": images} | {name: getattr(args, name) for name in names}
