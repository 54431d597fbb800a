"""``glip demo``: draws a few scenes that no model has seen and finds the things in them, as ``glip predict`` does."""

import argparse
import time
from pathlib import Path

from maskrcnn_benchmark.cli.console import BAD_INPUT, OK, check_output_folder, write
from maskrcnn_benchmark.cli.predict import add_model_arguments, count, load_detector, predict_files

SPLIT = "val"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="draw a few scenes and find the things in them",
        description="Draws scenes, searches all of them for a list of kinds and one for the phrases of a sentence.",
    )
    parser.add_argument("--num", type=count, default=4, metavar="N", help="number of scenes; default: %(default)s")
    parser.add_argument("--seed", type=int, help="draws the same scenes again; default: new ones every time")
    add_model_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    check_output_folder(args.output, "--output")
    detector = load_detector(args)
    from maskrcnn_benchmark.engine.detector_api import Caption
    from maskrcnn_benchmark.scenes import generate_scene

    seed = int(time.time()) if args.seed is None else args.seed
    drawn = [generate_scene(seed, SPLIT, index) for index in range(args.num)]
    paths = [args.output / "scenes" / f"scene_{number}.png" for number in range(1, args.num + 1)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, (picture, _) in zip(paths, drawn, strict=True):
        picture.save(path)
    kinds = list(dict.fromkeys(thing.kind for _, scene in drawn for thing in scene.objects))
    sentence = next(caption for caption in drawn[0][1].captions if caption.caption_type == "sentence")

    write(f"drew {args.num} scenes (--seed {seed}) into {paths[0].parent}")
    folders = []
    for title, prompt, chosen in (
        (f'searching all of them for: "{". ".join(kinds)}"', kinds, paths),
        (
            f'searching the first for the phrases of: "{sentence.text}"',
            Caption(sentence.text, phrases=tuple(span for span, _ in sentence.phrases)),
            paths[:1],
        ),
    ):
        folders.append(args.output / ("classes" if chosen is paths else "caption"))
        write(f"\n{title}")
        done = predict_files(detector, chosen, prompt, argparse.Namespace(**{**vars(args), "output": folders[-1]}))
        if done != len(chosen):
            return BAD_INPUT
    write(f"\nThe labelled pictures are in {folders[0].absolute()} and {folders[1].absolute()}")
    return OK
