"""``glip prompt``: which words find a class best, on a few annotated pictures."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from maskrcnn_benchmark.cli.console import OK, CommandError, Subparsers, check_output_folder, write
from maskrcnn_benchmark.cli.predict import add_model_arguments, count, load_detector

_EXAMPLES = """examples:
  glip prompt --data val.json --images val --candidates words.yaml

words.yaml names candidates for some or all classes; of a mapping only the name is scored:
  stingray:
    - flat and round
    - {suffix: ", which is flat and round"}
    - {prefix: "a grey ", name: ray}
"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command with its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "prompt",
        help="find the words that find your classes best",
        description="Tries words for classes on annotated pictures, each of which is encoded once; prints a ranking.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, metavar="JSON", help="annotations in COCO format")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of their pictures")
    parser.add_argument("--candidates", required=True, type=Path, metavar="YAML", help="words to try, by class")
    parser.add_argument("--max-pictures", type=count, metavar="N", help="use only the first N pictures with boxes")
    parser.add_argument("--output", type=Path, metavar="YAML", help="write the best words, for DATASETS.CAPTION_PROMPT")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    for path, option in ((args.data, "--data"), (args.images, "--images")):
        if not path.exists():
            raise CommandError(f"{option} '{path}' is not there")
    if args.output is not None:
        check_output_folder(args.output.parent, "--output")
        if args.output.is_dir():
            raise CommandError(f"--output '{args.output}' is a folder, not a file")
    from prettytable import PrettyTable
    from tqdm import tqdm

    from maskrcnn_benchmark.data.datasets.coco import COCODataset
    from maskrcnn_benchmark.data.own_annotations import checked_annotations
    from maskrcnn_benchmark.engine.tuning.prompt_search import PromptSearch, read_candidates, write_caption_prompt

    content = checked_annotations(args.data, args.images, sorts_categories=False)
    with TemporaryDirectory() as folder:
        path = Path(folder, args.data.name)
        path.write_text(json.dumps(content), encoding="utf-8")
        dataset = COCODataset(path, args.images, True)
    if args.max_pictures is not None:
        dataset.ids = dataset.ids[: args.max_pictures]
    candidates = read_candidates(args.candidates, [category["name"] for category in content["categories"]])

    def progress(title: str) -> Callable[[Iterable, int], Iterable]:
        return lambda items, total: tqdm(items, total=total, desc=title, disable=None, leave=False)

    search = PromptSearch(load_detector(args), dataset, progress("pictures"))
    tried, best = search.search(candidates, progress("candidates"))
    table = PrettyTable(["class", "words", "AP50", "AP", "AP of all classes"], align="r")
    table.align["class"] = table.align["words"] = "l"
    for one in tried:
        table.add_row([one.class_name, one.text, *(f"{value:.4f}" for value in (one.ap50, one.ap, one.mean_ap))])
    write(f"{len(dataset)} pictures, {len(tried)} candidates of {len(candidates)} classes, best first\n{table}")
    if args.output is not None:
        write(f"wrote {write_caption_prompt(best, args.output)}: DATASETS.USE_CAPTION_PROMPT True")
    return OK
