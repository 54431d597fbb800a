"""``glip data``: fetches public datasets and checks any. Nothing here loads PyTorch before it is needed."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from maskrcnn_benchmark.cli.console import (
    BAD_INPUT,
    OK,
    PARTIAL_FAILURE,
    CommandError,
    Parser,
    Subparsers,
    check_output_folder,
    one_line,
    processors,
    report_error,
    write,
)
from maskrcnn_benchmark.cli.data_tsv import add_actions

if TYPE_CHECKING:
    from maskrcnn_benchmark.data.inspection import DatasetReport

SHOWN_EXAMPLES, SHOWN_CLASSES = 5, 20

_DOWNLOAD_EXAMPLES = """examples:
  glip data download --list
  glip data download lvis_minival flickr30k_annotations
  glip data download odinw/Aquarium --root /data

Downloads that broke off are resumed. GLIP_MIRROR or --mirror names another server with the same paths, HF_ENDPOINT
replaces https://huggingface.co, and GLIP_OFFLINE=1 forbids any download. DATA.md says what each set is and needs.
"""

_CHECK_EXAMPLES = """examples:
  glip data check configs/scenes/glip_nano.yaml
  glip data check --split test configs/pretrain/glip_Swin_T_O365.yaml DATASETS.TEST "('coco_2017_val',)"

Every item is read once, without augmentation. The exit code is 0 if nothing is wrong, 1 if something is, and 2 if a
dataset cannot be read at all. NAME.json holds the whole report, NAME.png 16 items with their phrases.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command group."""
    group: argparse.ArgumentParser = subparsers.add_parser(
        "data",
        help="fetch public datasets, check any dataset",
        description="Fetches public datasets, and checks those of a configuration.",
    )
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    _add_download(actions)
    _add_check(actions)
    add_actions(actions)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit code."""
    return args.run_action(args)


def _add_download(actions: Subparsers) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        "download",
        help="fetch public datasets",
        description="Fetches public datasets into the folder in which the catalogue looks for them.",
        epilog=_DOWNLOAD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a dataset, see --list")
    parser.add_argument("--list", action="store_true", help="show the names and where the files go")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="data folder (default: the first in DATASET, else ./DATASET)"
    )
    parser.add_argument("--mirror", metavar="URL", help="server to use instead of the publishers'")
    parser.add_argument("--keep-archives", action="store_true", help="do not remove archives after unpacking them")
    parser.set_defaults(run_action=_download)


def _download(args: argparse.Namespace) -> int:
    """Fetches every named set; one that fails does not stop the others."""
    from maskrcnn_benchmark.config.public_data import PUBLIC_SETS

    if args.list:
        for name, public_set in PUBLIC_SETS.items():
            write(f"{name:34} {public_set.help} -> {', '.join(dict.fromkeys(f.target for f in public_set.files))}")
        return OK
    if not args.names:
        raise CommandError("glip data download needs the NAME of a dataset (glip data download --list shows them)")
    return _fetch_all(args)


def _fetch_all(args: argparse.Namespace) -> int:
    from maskrcnn_benchmark.data.fetch import data_folder, fetch, find_public_set

    public_files = [file for name in dict.fromkeys(args.names) for file in find_public_set(name).files]
    root = (args.root or data_folder()).expanduser()
    check_output_folder(root, "--root")
    failures = 0
    for file in dict.fromkeys(public_files):
        try:
            write(f"{file.path}: {fetch(file, root, mirror=args.mirror, keep_archive=args.keep_archives)}")
        except (OSError, ValueError) as error:
            failures += 1
            report_error(error)
    if failures == 0:
        return OK
    return BAD_INPUT if failures == len(dict.fromkeys(public_files)) else PARTIAL_FAILURE


def _add_check(actions: Subparsers) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        "check",
        help="read a whole dataset and report what is wrong with it",
        description="Reports broken pictures, boxes out of range, phrases whose tokens are lost, captions over the "
        "limit and class counts, and draws a contact sheet.",
        epilog=_CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="configuration file; flags stand before it or at the end")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="configuration entries")
    parser.add_argument(
        "--split", choices=("train", "test"), default="train", help="DATASETS.TRAIN or .TEST (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of reports and sheets (default: OUTPUT_DIR/data_check)"
    )
    parser.add_argument(
        "--workers", type=int, default=processors(), metavar="N", help="processes that read, 0 for one (default: all)"
    )
    parser.set_defaults(run_action=_check)


def _check(args: argparse.Namespace) -> int:
    """Checks the datasets one after the other; 1 if any has a problem."""
    if args.workers < 0:
        raise CommandError(f"--workers {args.workers}: give 0 or a positive number")
    from maskrcnn_benchmark.config import default_config
    from maskrcnn_benchmark.data.check import check_datasets

    cfg = default_config()
    cfg.merge_from_file(args.config)
    cfg.merge_from_list(args.opts)
    folder = args.out or Path(cfg.OUTPUT_DIR) / "data_check"
    check_output_folder(folder, "--out")
    is_clean = True
    for report, sheet in check_datasets(
        cfg, args.split == "train", folder, workers=args.workers, progress=_progress_of
    ):
        _show(report)
        write(f"  written to {sheet.with_suffix('.json')} and {sheet}")
        is_clean = is_clean and report.is_clean
    return OK if is_clean else PARTIAL_FAILURE


def _progress_of(name: str) -> Callable[[Iterable, int], Iterable]:
    return lambda items, total: tqdm(items, total=total, unit="item", desc=name, disable=None)


def _show(report: "DatasetReport") -> None:
    from maskrcnn_benchmark.data.inspection import KINDS

    left_out = f"; {report.left_out} records left out" if report.left_out else ""
    verdict = "nothing wrong" if report.is_clean else f"{report.counts.total()} problems"
    write(f"{report.name}: {report.items} items, {report.boxes} boxes{left_out}; {verdict}")
    for kind, title in KINDS.items():
        if report.counts[kind]:
            write(f"  {title}: {report.counts[kind]}")
            examples = report.examples[kind]
            for text in examples[:SHOWN_EXAMPLES]:
                write(f"    {one_line(text)}")
            if report.counts[kind] > SHOWN_EXAMPLES:
                write("    ...")
    if report.class_counts:
        _show_classes(report.class_counts)


def _show_classes(counts: dict[str, int]) -> None:
    ranked = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    shown = ", ".join(f"{one_line(name)} {counts[name]}" for name in ranked[:SHOWN_CLASSES])
    more = f", and {len(ranked) - SHOWN_CLASSES} more" if len(ranked) > SHOWN_CLASSES else ""
    write(f"  {len(counts)} classes: {shown}{more}")
    if absent := [name for name, count in counts.items() if not count]:
        more = ", ..." if len(absent) > SHOWN_CLASSES else ""
        write(f"  {len(absent)} without a box: {', '.join(map(one_line, absent[:SHOWN_CLASSES]))}{more}")
