"""``glip demo``: draws a few scenes that no model has seen and finds the things in them, as ``glip predict`` does."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_benchmark.cli.console import BAD_INPUT, OK, Subparsers, check_output_folder, write
from maskrcnn_benchmark.cli.predict import (
    add_model_arguments,
    add_selection_arguments,
    count,
    load_detector,
    predict_files,
)

if TYPE_CHECKING:
    from maskrcnn_benchmark.engine.detector_api import Detector
    from maskrcnn_benchmark.scenes import Scene
    from maskrcnn_benchmark.text.prompt import Prompt


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="draw a few scenes and find the things in them",
        description="Draws scenes, searches each for its things by colour and kind, and one for the phrases of a "
        "sentence. Half of the scenes show pairs of colour and kind that training never did.",
    )
    parser.add_argument("--num", type=count, default=4, metavar="N", help="number of scenes; default: %(default)s")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="draws the same scenes again; default: new ones every time"
    )
    add_model_arguments(parser)
    add_selection_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="folder of the scenes and results; default: %(default)s",
    )
    parser.set_defaults(one_label=True)


def run(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    check_output_folder(args.output, "--output")
    detector = load_detector(args)
    seed = int(time.time()) if args.seed is None else args.seed
    scenes = _draw(args.output / "scenes", args.num, seed)
    write(f"drew {args.num} scenes (--seed {seed}) into {args.output / 'scenes'}")

    write("\nsearching each scene for its things by colour and kind")
    found = args.output / "classes"
    plans = _pairs(detector, scenes)
    if predict_files(detector, plans, _with(args, output=found)) != len(plans):
        return BAD_INPUT

    path, text, plan = _sentence(detector, scenes)
    write(f'\nsearching {path.name} for the phrases of "{text}"')
    grounded = args.output / "caption"
    if predict_files(detector, {path: plan}, _with(args, output=grounded, top=args.top or 1)) != 1:
        return BAD_INPUT
    write(f"\nThe labelled pictures are in {found.absolute()} and {grounded.absolute()}")
    return OK


def _draw(folder: Path, num: int, seed: int) -> "dict[Path, Scene]":
    """Writes the scenes; the second half shows unseen pairs."""
    from maskrcnn_benchmark.scenes import generate_scene

    folder.mkdir(parents=True, exist_ok=True)
    scenes = {}
    for index in range(num):
        picture, scene = generate_scene(seed, "val" if index < (num + 1) // 2 else "novel", index)
        path = folder / f"scene_{index + 1}.png"
        picture.save(path)
        scenes[path] = scene
    return scenes


def _pairs(detector: "Detector", scenes: "dict[Path, Scene]") -> "dict[Path, tuple[Prompt, ...]]":
    """For each scene a prompt with the pairs that are in it, numbered alike in all scenes."""
    from maskrcnn_benchmark.scenes.palette import pair_name

    numbers: dict[str, int] = {}
    plans = {}
    for path, scene in scenes.items():
        names = [pair_name(pair) for pair in scene.pairs()]
        labels = [numbers.setdefault(name, len(numbers) + 1) for name in names]
        plans[path] = detector.prepare(names, labels=labels)
    return plans


def _sentence(detector: "Detector", scenes: "dict[Path, Scene]") -> "tuple[Path, str, tuple[Prompt, ...]]":
    """The scene with the sentence that tells most of how things stand to each other, its text and its prompt."""
    from maskrcnn_benchmark.engine.detector_api import Caption

    path, chosen = max(
        ((path, caption) for path, scene in scenes.items() for caption in scene.captions if caption.phrases),
        key=lambda item: (item[1].caption_type == "sentence", len(item[1].relations)),
    )
    spans = tuple(span for span, _ in chosen.phrases)
    return path, chosen.text, detector.prepare(Caption(chosen.text, phrases=spans))


def _with(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})
