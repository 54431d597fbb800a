"""``glip scenes``: a data set of drawn scenes."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from maskrcnn_benchmark.cli.console import OK, Subparsers, check_output_folder, processors, write
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.scenes.dataset import FORMATS, write_dataset
from maskrcnn_benchmark.scenes.sampling import SPLITS
from maskrcnn_benchmark.scenes.scene import Scene
from maskrcnn_benchmark.scenes.statistics import read_scene_statistics
from maskrcnn_benchmark.scenes.styles import PLAIN, STYLES


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command with its flags."""
    parser = subparsers.add_parser(
        "scenes",
        help="write a data set of drawn scenes",
        description="Writes DIR/images, DIR/instances.json (COCO detection) and DIR/grounding.json (captions).",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder to create; one that exists must be empty"
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="novel also shows the colour-kind pairs that the others never do",
    )
    parser.add_argument("--num", type=int, default=1000, metavar="N", help="number of scenes (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same scenes (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=processors(), metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument("--format", choices=FORMATS, default="jpg", help="of the pictures (default: %(default)s)")
    parser.add_argument("--style", choices=STYLES, default=PLAIN, help="how they are drawn (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Writes the dataset and shows its statistics. Raises ValueError or OSError when the arguments cannot be served."""

    def progress(scenes: Iterable[Scene]) -> Iterable[Scene]:
        return tqdm(scenes, total=args.num, unit="scene", desc=f"{args.split} scenes", disable=None)

    check_output_folder(args.out, "--out")
    out = write_dataset(
        args.out,
        args.split,
        args.num,
        args.seed,
        workers=args.workers,
        image_format=args.format,
        style=args.style,
        progress=progress,
    )
    write(str(read_scene_statistics(out)))
    write(f"written to {out}")
    return OK


if __name__ == "__main__":
    sys.exit(main(["scenes", *sys.argv[1:]]))
