"""``glip finetune``: a model for somebody's own classes, from a COCO-format JSON and a folder of pictures."""

import argparse
from pathlib import Path

from maskrcnn_benchmark.cli.console import OK, PARTIAL_FAILURE, CommandError, Subparsers, check_output_folder, write
from maskrcnn_benchmark.cli.predict import DEFAULT_MODEL, count

MODES = ("full", "prompt", "linear")
DEFAULT_OUTPUT = Path("OUTPUT/finetune")
MOST_SEEDS = 2**32

_EXAMPLES = """examples:
  glip finetune --data annotations.json --images photos
  glip finetune --data annotations.json --images photos --mode prompt --shots 10 --model glip_tiny_model_o365_goldg
  glip finetune --data train.json --images train --val val.json --val-images val --mode linear --cache-features

--mode full trains everything and needs the most data; prompt trains what is added to the text (0.3 % of GLIP-T), linear
the last layers: both give an adapter of less than a megabyte beside an unchanged model. The same command goes on where
it was stopped.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the command with its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "finetune",
        help="fine-tune a model on your own annotated pictures",
        description="Checks the data, measures the model as it is, fine-tunes it, and writes a report.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, metavar="JSON", help="annotations in COCO format")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="folder of their pictures")
    parser.add_argument("--val", type=Path, metavar="JSON", help="for validation; default: a fifth of the pictures")
    parser.add_argument("--val-images", type=Path, metavar="DIR", help="folder of --val; default: that of --images")
    parser.add_argument("--mode", choices=MODES, default="full", help="what is trained; default: %(default)s")
    parser.add_argument("--shots", type=count, metavar="K", help="train on K pictures of each class; default: all")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the chosen pictures and of training; default: %(default)s"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="to start from; default: %(default)s"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--iterations", type=count, metavar="N", help="steps of training; default: by the number of pictures"
    )
    parser.add_argument("--lr", type=float, metavar="RATE", help="learning rate; default: by the mode and the batch")
    parser.add_argument("--batch-size", type=count, metavar="N", help="pictures of a step; default: 4, on a CPU 2")
    parser.add_argument(
        "--cache-features", action="store_true",
        help="keep the features of pictures on disk, with --mode prompt or linear; without augmentation",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="folder of the results; default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if args.cache_features and args.mode == "full":
        raise CommandError("--cache-features needs a frozen image encoder: --mode prompt or --mode linear")
    if args.lr is not None and not 0 < args.lr < float("inf"):
        raise CommandError(f"--lr {args.lr:g}: give a positive number")
    if not 0 <= args.seed < MOST_SEEDS:
        raise CommandError(f"--seed {args.seed}: give a number from 0 to {MOST_SEEDS - 1}")
    check_output_folder(args.output, "--output")
    from maskrcnn_benchmark.engine.devices import resolve_device
    from maskrcnn_benchmark.engine.tuning.own_data import OwnData, plan_own_data
    from maskrcnn_benchmark.engine.tuning.own_tuning import tune_on_own_data
    from maskrcnn_benchmark.utils.logger import setup_logger

    own = OwnData(
        annotations=args.data, images=args.images, output=args.output, validation=args.val,
        validation_images=args.val_images, model=args.model, mode=args.mode, shots=args.shots or 0, seed=args.seed,
        device=str(resolve_device(args.device)), iterations=args.iterations, rate=args.lr, batch_size=args.batch_size,
        cache_features=args.cache_features,
    )  # fmt: skip
    plan = plan_own_data(own)
    for name, text in plan.choices.items():
        write(f"{name + ':':18}{text}")
    setup_logger("maskrcnn_benchmark", str(args.output), 0)
    tuned = tune_on_own_data(own, plan)
    if tuned is None:
        write("stopped; the same command goes on")
        return PARTIAL_FAILURE
    for name in ("AP", "AP50"):
        write(f"{name + ':':18}{tuned.before[name]:.4f} before, {tuned.after[name]:.4f} after")
    write(f"wrote {tuned.weights} ({tuned.weights.stat().st_size / 1e6:.2f} MB)")
    write(f"wrote {tuned.page}")
    write(f"use it with: {tuned.predict}")
    return OK
