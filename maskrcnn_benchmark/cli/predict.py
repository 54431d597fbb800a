"""``glip predict``: boxes for the things that a text names, on one picture or many."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_benchmark.cli.console import (
    BAD_INPUT,
    OK,
    PARTIAL_FAILURE,
    CommandError,
    Subparsers,
    check_output_folder,
    report_error,
    write,
)
from maskrcnn_benchmark.engine.image_io import ImageError, check_image, find_images, load_image
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION, PRECISION_NAMES

if TYPE_CHECKING:
    import numpy as np

    from maskrcnn_benchmark.engine.detector_api import Detector, Prediction, PromptLike
    from maskrcnn_benchmark.text.prompt import Prompt

DEFAULT_MODEL = "glip_nano"
PREDICTIONS_FILE = "predictions.json"
SHOWN_PATHS = 5  # of the written pictures

logger = logging.getLogger(__name__)

_EXAMPLES = """examples:
  glip predict --image street.jpg --text "person. traffic light"
  glip predict --image photos/ more/*.png --caption "a man on a horse" --threshold 0.4 --output found
  glip predict --image street.jpg --text "person. car" --model glip_tiny_model_o365_goldg
  glip predict --image park.jpg --classes "St. Bernard" cat
  glip predict --image pond.jpg --adapter tuned/adapter.safetensors
"""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="find the things that a text names on pictures",
        description="Writes an annotated PNG for every picture and predictions.json, and prints what was found.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--image", nargs="+", action="extend", required=True, metavar="PATH",
        help="a picture, a folder of pictures or a pattern such as 'photos/*.jpg'; several may follow",
    )  # fmt: skip
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", help="the things to find, separated by full stops: 'person. traffic light'")
    text.add_argument(
        "--classes", nargs="+", action="extend", metavar="NAME",
        help="the things to find as words of the command line, for names with a full stop: 'St. Bernard' cat",
    )  # fmt: skip
    text.add_argument("--caption", help="a sentence; every noun phrase of it is searched for: 'a man on a horse'")
    add_model_arguments(parser)
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE",
        help="the result of a prompt tuning or linear probing of --model; without a text its own classes are found",
    )  # fmt: skip
    add_selection_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("glip_output"),
        metavar="DIR",
        help="folder of the results; default: %(default)s",
    )


def add_model_arguments(parser: argparse.ArgumentParser, *, batch_size: int = 1) -> None:
    """The arguments that choose the detector and how it runs; ``load_detector`` reads them."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|DIR",
        help="a published model, downloaded when first used, or a folder with config.yaml and weights; "
        "default: %(default)s, which is part of the package",
    )  # fmt: skip
    parser.add_argument("--config-file", metavar="YAML", help="with --weights: the configuration of the model")
    parser.add_argument("--weights", metavar="FILE", help="with --config-file: a checkpoint, instead of --model")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--precision", choices=PRECISION_NAMES, default=DEFAULT_PRECISION,
        help="of the numbers on a GPU; default: %(default)s. A CPU computes in fp32",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=count, default=batch_size, metavar="N", help="pictures at a time; default: %(default)s"
    )


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose which of the found boxes are shown."""
    parser.add_argument(
        "--threshold", type=_fraction, default=0.5, metavar="SCORE", help="show scores above this; default: %(default)s"
    )
    parser.add_argument(
        "--one-label", action="store_true", help="where several phrases fit the same box, show only the best of them"
    )
    parser.add_argument("--top", type=count, metavar="N", help="show at most N boxes for each phrase")


def run(args: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    has_text = any(words is not None for words in (args.text, args.classes, args.caption))
    if not has_text and args.adapter is None:
        raise CommandError("one of --text, --classes, --caption and --adapter is needed: what to search for")
    paths = find_images(args.image)
    check_output_folder(args.output, "--output")
    readable = list(_report_unreadable(paths))
    if not readable:
        return BAD_INPUT
    prompt = _prompt(args) if has_text else None
    detector = load_detector(args)
    if args.adapter is not None:
        detector.load_adapter(args.adapter)
    prompt = _checked_prompt(detector, prompt)
    done = predict_files(detector, dict.fromkeys(readable, detector.prepare(prompt)), args)
    if not done:
        return BAD_INPUT
    return OK if done == len(paths) else PARTIAL_FAILURE


def check_model_arguments(args: argparse.Namespace) -> None:
    """Raises CommandError for half a pair of model arguments."""
    if (args.config_file is None) != (args.weights is None):
        raise CommandError("--config-file and --weights go together")


def load_detector(args: argparse.Namespace) -> "Detector":
    """The detector that the model arguments describe."""
    check_model_arguments(args)
    from maskrcnn_benchmark.engine.detector_api import Detector

    if args.config_file is not None:
        return Detector.from_config_file(args.config_file, args.weights, device=args.device, precision=args.precision)
    return Detector.from_pretrained(args.model, device=args.device, precision=args.precision)


def selection(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``Detector.predict`` that say which boxes are shown."""
    return {"threshold": args.threshold, "one_label": args.one_label, "top": args.top}


def predict_files(detector: "Detector", plans: "Mapping[Path, tuple[Prompt, ...]]", args: argparse.Namespace) -> int:
    """Predicts, draws, writes and prints; reports pictures that cannot be read and returns how many could.

    plans: for each picture its prompt, as ``detector.prepare`` returns it; equal labels are equal phrases.
    args: ``output``, ``batch_size`` and what ``add_selection_arguments`` adds.
    """
    from tqdm import tqdm

    from maskrcnn_benchmark.cli.results import Results, output_names, write_picture

    paths = list(plans)
    prompts = [prompt for plan in {id(plan): plan for plan in plans.values()}.values() for prompt in plan]
    results = Results(
        phrases={label: phrase for prompt in prompts for label, phrase in prompt.phrases.items()},
        info={"model": detector.name, "prompt": [prompt.caption for prompt in prompts], **selection(args)},
    )
    targets = dict(zip(paths, output_names(paths, args.output), strict=True))
    written: list[Path] = []
    with tqdm(total=len(paths), unit="picture", disable=None if len(paths) > 1 else True, leave=False) as progress:
        for names, images in _batches(paths, args.batch_size):
            predictions = _predict(detector, names, images, [plans[name] for name in names], args)
            for path, image, prediction in zip(names, images, predictions, strict=True):
                write_picture(targets[path], image, prediction)
                written.append(targets[path])
                results.add(str(path), (image.shape[1], image.shape[0]), prediction)
            progress.update(len(names))
    if not written:
        return 0
    results.write_json(args.output / PREDICTIONS_FILE)
    write(results.table())
    write(
        f"{_number(len(results.annotations), 'box', 'boxes')} on {_number(len(written), 'picture', 'pictures')}"
        + (f": {results.counts()}" if results.annotations else f" with a score above {args.threshold:g}")
    )
    for path in written[:SHOWN_PATHS]:
        write(f"wrote {path}")
    if len(written) > SHOWN_PATHS:
        write(f"and {len(written) - SHOWN_PATHS} more pictures")
    write(f"wrote {args.output / PREDICTIONS_FILE}")
    return len(written)


def _predict(
    detector: "Detector",
    names: list[Path],
    images: "list[np.ndarray]",
    plans: "list[tuple[Prompt, ...]]",
    args: argparse.Namespace,
) -> "list[Prediction]":
    from torch import OutOfMemoryError

    try:
        return detector.predict(images, plans, batch_size=args.batch_size, **selection(args))
    except OutOfMemoryError as error:
        raise CommandError(
            f"--batch-size {args.batch_size} on {detector.device}: the memory is too small for "
            f"{', '.join(map(str, names[:3]))}; make the batch or the pictures smaller"
        ) from error


def _batches(paths: Sequence[Path], size: int) -> "Iterator[tuple[list[Path], list[np.ndarray]]]":
    """Groups of ``size`` readable pictures with their names; the others are reported."""
    names: list[Path] = []
    images: list[np.ndarray] = []
    for position, path in enumerate(paths, 1):
        try:
            images.append(load_image(path))
            names.append(path)
        except ImageError as error:
            report_error(error)
        if images and (len(images) == size or position == len(paths)):
            yield names, images
            names, images = [], []


def _report_unreadable(paths: Sequence[Path]) -> Iterator[Path]:
    """The pictures whose header can be read, before any time goes into the model; the others are reported."""
    for path in paths:
        try:
            check_image(path)
        except ImageError as error:
            report_error(error)
        else:
            yield path


def _prompt(args: argparse.Namespace) -> "PromptLike":
    from maskrcnn_benchmark.text.class_names import has_content, split_class_text

    if args.classes is not None:
        if not any(map(has_content, args.classes)):
            raise CommandError(f"--classes {args.classes!r} names no class; write for example 'St. Bernard' cat")
        return args.classes
    if args.text is not None:
        return split_class_text(args.text)
    if not has_content(args.caption):
        raise CommandError(f"--caption {args.caption!r} holds no word; write for example 'a man on a horse'")
    from maskrcnn_benchmark.engine.detector_api import Caption

    return Caption(args.caption)


def _checked_prompt(detector: "Detector", prompt: "PromptLike | None") -> "PromptLike":
    """The text to search for: that of the adapter where none is given. Warns of one that the adapter does not know."""
    adapter = detector.adapter
    if prompt is None:
        assert adapter is not None  # `run` has asked for one of them
        return adapter.prompts
    if adapter is not None and adapter.has_prompt:
        asked = [part.caption for part in detector.prepare(prompt)]
        trained = [part.caption for part in adapter.prompts]
        if asked != trained:
            logger.warning(
                "the learnt prompt of the adapter belongs to the text %r, not to %r; without a text its own classes "
                "are searched for",
                " / ".join(trained),
                " / ".join(asked),
            )
    return prompt


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def count(text: str) -> int:
    """Reads a positive number of the command line."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
