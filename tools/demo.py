"""One picture, one text: python tools/demo.py --image street.jpg --categories person "traffic light" --output found.png

The text is a sentence (--caption), a list of classes (--categories), or a JSON file (--entities-json) with a caption
and the parts of it to find: {"caption": "a man on a horse", "entities": [{"span": "horse"}, {"char_bounds": [0, 5]}]}.
"""

import argparse
import json
import sys
from pathlib import Path

from maskrcnn_benchmark.cli.console import OK, CommandError, Parser, report_errors, write
from maskrcnn_benchmark.cli.predict import add_model_arguments, add_selection_arguments, load_detector, selection
from maskrcnn_benchmark.engine.image_io import load_image


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="tools/demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="the picture")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--caption", help="a sentence; its noun phrases are searched for")
    text.add_argument("--categories", nargs="+", metavar="NAME", help="class names")
    text.add_argument("--entities-json", type=Path, metavar="FILE", help="a caption and the parts of it to find")
    add_model_arguments(parser)
    add_selection_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="PNG", help="where to write the annotated picture")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the boxes; default: standard output")
    return parser.parse_args(argv)


def read_prompt(args: argparse.Namespace):
    """The prompt for the detector. Raises: CommandError for a JSON file that is not as described above."""
    from maskrcnn_benchmark.engine.detector_api import Caption

    if args.categories:
        return args.categories
    if args.caption is not None:
        return Caption(args.caption)
    try:
        content = json.loads(args.entities_json.read_text(encoding="utf-8"))
        parts = [tuple(part["char_bounds"]) if "char_bounds" in part else part["span"] for part in content["entities"]]
        return Caption(content["caption"], phrases=tuple(parts))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CommandError(f"{args.entities_json} does not hold a caption and entities: {error!r}") from error


def main(args: argparse.Namespace) -> int:
    """Prints or writes the records {phrase, spans, box, score}, the best first; returns the exit code."""
    image = load_image(args.image)
    prompt = read_prompt(args)
    (found,) = load_detector(args).predict(image, prompt, **selection(args))
    if args.output:
        from maskrcnn_benchmark.cli.results import write_picture

        write_picture(args.output, image, found)
    columns = zip(found.phrases, found.spans, found.boxes.tolist(), found.scores.tolist(), strict=True)
    records = [dict(zip(("phrase", "spans", "box", "score"), record, strict=True)) for record in columns]
    text = json.dumps(records, ensure_ascii=False, indent=1)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    else:
        write(text)
    return OK


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(parse_args())))
