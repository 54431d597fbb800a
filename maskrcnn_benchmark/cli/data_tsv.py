"""``glip data to-tsv`` and ``glip data from-tsv``: detection data between COCO's form and TSV files."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from maskrcnn_benchmark.cli.console import OK, Subparsers, check_output_folder, write


def add_actions(actions: Subparsers) -> None:
    """Adds both to the actions of ``glip data``."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "to-tsv",
        help="write a COCO-style dataset as TSV files",
        description="Writes images.tsv, label.tsv, hw.tsv, their indices, labelmap.json, and data.yaml with the names.",
    )
    parser.add_argument("annotations", type=Path, metavar="JSON", help="COCO-style annotation file")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of the pictures")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.set_defaults(run_action=_to_tsv)

    parser = actions.add_parser(
        "from-tsv",
        help="write a TSV dataset in COCO's form",
        description="Writes instances.json and the pictures, in the folder images.",
    )
    parser.add_argument("descriptor", type=Path, metavar="YAML", help="file that names the TSV files")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.set_defaults(run_action=_from_tsv)


def _to_tsv(args: argparse.Namespace) -> int:
    from maskrcnn_benchmark.data.tsv_conversion import coco_to_tsv

    check_output_folder(args.out, "--out")
    write(f"written to {coco_to_tsv(args.annotations, args.images, args.out, _progress)}")
    return OK


def _from_tsv(args: argparse.Namespace) -> int:
    from maskrcnn_benchmark.data.tsv_conversion import tsv_to_coco

    check_output_folder(args.out, "--out")
    write(f"written to {tsv_to_coco(args.descriptor, args.out, _progress)}")
    return OK


def _progress(numbers: Sequence[int]) -> Iterable[int]:
    return tqdm(numbers, unit="picture", disable=None)
