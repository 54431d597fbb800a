"""``glip data``: fetches public datasets. Nothing here loads PyTorch before it is needed."""

import argparse
from pathlib import Path

from maskrcnn_benchmark.cli.console import (
    BAD_INPUT,
    OK,
    PARTIAL_FAILURE,
    CommandError,
    Parser,
    check_output_folder,
    report_error,
    write,
)

_DOWNLOAD_EXAMPLES = """examples:
  glip data download --list
  glip data download lvis_minival flickr30k_annotations
  glip data download odinw/Aquarium --root /data

Downloads that broke off are resumed. GLIP_MIRROR or --mirror names another server with the same paths, HF_ENDPOINT
replaces https://huggingface.co, and GLIP_OFFLINE=1 forbids any download. DATA.md says what each set is and needs.
"""


def add_parser(subparsers) -> None:
    """Adds the command group."""
    group: argparse.ArgumentParser = subparsers.add_parser(
        "data", help="fetch public datasets", description="Datasets: fetching the public ones."
    )
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    _add_download(actions)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action; returns the exit code."""
    return args.run_action(args)


def _add_download(actions) -> None:
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
