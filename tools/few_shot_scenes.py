"""Few-shot training on a shifted domain: scenes drawn as blueprints, a style that the embedded model has never seen.

    python tools/few_shot_scenes.py --output OUTPUT/few_shot [--modes full prompt linear] [--shots 1 3] [--processes 9]

Training, validation and test scenes are generated once and lie beside the runs; the test set decides nothing. Several
trainings at a time (--processes) share the GPUs, which one alone leaves idle for the most part. The same command goes
on where it was stopped. Ends with a table of AP on the test set in percent, mean and spread over seeds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch

from maskrcnn_benchmark.cli.console import OK, PARTIAL_FAILURE, Parser, processors, report_errors
from maskrcnn_benchmark.cli.predict import DEFAULT_MODEL, count
from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.devices import resolve_device
from maskrcnn_benchmark.engine.testing.evaluation_run import EvaluationOptions, Task, evaluate_tasks
from maskrcnn_benchmark.engine.testing.task_model import TaskModel
from maskrcnn_benchmark.engine.tuning.finetune import TuningOptions, fine_tune
from maskrcnn_benchmark.engine.tuning.own_data import RECIPES, OwnData, plan_own_data
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.utils.complete_files import write_complete
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

STYLE, TEST_SET = "blueprint", "own_test"
PARTS = {"train": ("train", 11), "val": ("val", 12), "test": ("novel", 13)}
"""Split of the scenes and seed of each part; the test part also has pairs of colour and kind never seen in training."""


class Run(NamedTuple):
    """One training: a way of tuning, pictures per class, and the seed that chooses them."""

    mode: str
    shots: int
    seed: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="tools/few_shot_scenes.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of everything")
    parser.add_argument("--modes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES), help="default: all")
    parser.add_argument(
        "--shots",
        nargs="+",
        type=count,
        default=[1, 3, 5, 10],
        metavar="N",
        help="pictures per class; default: 1 3 5 10",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="of the pictures; default: 0 1 2"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="to start from; default: %(default)s"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--iterations", type=count, metavar="N", help="of every training; default: as glip finetune chooses"
    )
    parser.add_argument("--batch-size", type=count, metavar="N", help="pictures of a step; default: 4, on a CPU 2")
    parser.add_argument("--processes", type=count, default=1, metavar="N", help="trainings at a time; default: 1")
    parser.add_argument(
        "--scenes", nargs=3, type=count, default=[300, 40, 200], metavar=("TRAIN", "VAL", "TEST"),
        help="numbers of scenes; default: 300 40 200",
    )  # fmt: skip
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    _start_process(args)
    for (part, (split, seed)), number in zip(PARTS.items(), args.scenes, strict=True):
        if not (args.output / "scenes" / part).is_dir():
            print(f"drawing {number} scenes: {part}", flush=True)
            folder = args.output / "scenes" / part
            write_dataset(folder, split, number, seed, workers=processors(), style=STYLE)
    zero_shot = measure_start(args)
    print(f"zero-shot: AP {100 * zero_shot:.1f}", flush=True)
    scores: dict[Run, float] = {}
    for run, score in results(args):
        if score is None:
            return PARTIAL_FAILURE
        scores[run] = score
        print(f"{run.mode}, {run.shots} shots, seed {run.seed}: AP {100 * score:.1f}", flush=True)
        record = {
            "zero_shot": zero_shot,
            "scores": [{**run._asdict(), "AP": score} for run, score in sorted(scores.items())],
            "torch": torch.__version__,
        }
        write_complete(args.output / "few_shot.json", json.dumps(record, indent=1) + "\n")
    print(table(args, zero_shot, scores))
    return OK


def _start_process(args: argparse.Namespace, number: Synchronized | None = None) -> None:
    """Opens the log; a process of several takes the next GPU, and its share of the processors.

    number: of processes that were started before.
    """
    setup_logger("maskrcnn_benchmark", str(args.output), 0)
    if number is None:
        return
    torch.set_num_threads(max(1, processors() // args.processes))
    with number.get_lock():
        index, number.value = number.value, number.value + 1
    if torch.cuda.is_available() and args.device in (None, "cuda"):
        torch.cuda.set_device(index % torch.cuda.device_count())


def results(args: argparse.Namespace) -> Iterator[tuple[Run, float | None]]:
    """Every run and its AP, as they end; None where a training was stopped."""
    runs = [Run(mode, shots, seed) for shots, mode, seed in product(args.shots, args.modes, args.seeds)]
    if args.processes == 1:
        yield from ((run, train(args, run)) for run in runs)
        return
    longest_first = sorted(runs, key=lambda run: -run.shots)
    context = get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(args.processes, context, _start_process, (args, context.Value("i", 0))) as pool:
        futures = {pool.submit(train, args, run): run for run in longest_first}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def plan(args: argparse.Namespace, run: Run, output: Path) -> CfgNode:
    """The configuration of a training, as `glip finetune` makes it, with the test set."""
    scenes = args.output / "scenes"
    own = OwnData(
        annotations=scenes / "train" / "instances.json", images=scenes / "train" / "images", output=output,
        validation=scenes / "val" / "instances.json", validation_images=scenes / "val" / "images", model=args.model,
        mode=run.mode, shots=run.shots, seed=run.seed, device=str(resolve_device(args.device)),
        iterations=args.iterations, batch_size=args.batch_size,
    )  # fmt: skip
    cfg = plan_own_data(own).cfg
    folder = (scenes / "test").absolute()
    entry = {"type": "coco", "img_dir": str(folder / "images"), "ann_file": str(folder / "instances.json")}
    cfg.DATASETS.REGISTER[TEST_SET] = CfgNode(entry, new_allowed=True)
    cfg.SOLVER.CUDA_GRAPHS = True  # all scenes have one size; a CPU takes no notice
    return cfg


def measure_start(args: argparse.Namespace) -> float:
    """AP of the model as it is."""
    folder = args.output / "zero_shot"
    cfg = plan(args, Run("full", 1, 0), folder)
    cfg.DATASETS.TEST = (TEST_SET,)
    model = TaskModel(cfg, cfg.MODEL.WEIGHT, torch.device(cfg.MODEL.DEVICE), DEFAULT_PRECISION)
    options = EvaluationOptions(resume=True, weight=cfg.MODEL.WEIGHT)
    return evaluate_tasks([Task("", cfg)], model, folder, options)[""][TEST_SET]["AP"]


def train(args: argparse.Namespace, run: Run) -> float | None:
    """AP of the weights that were best in validation; None where the training was stopped."""
    cfg = plan(args, run, args.output / f"{run.mode}_{run.shots}_{run.seed}")
    options = TuningOptions(tests_best=True, test_sets=(TEST_SET,))
    result = fine_tune(cfg, torch.device(cfg.MODEL.DEVICE), options)
    return result.test[TEST_SET]["AP"] if result.is_finished else None


def table(args: argparse.Namespace, zero_shot: float, scores: dict[Run, float]) -> str:
    """Markdown: a row for each number of shots, a column for each mode."""
    lines = [f"| shots | zero-shot | {' | '.join(args.modes)} |", "|---|---|" + "---|" * len(args.modes)]
    for shots in args.shots:
        cells = []
        for mode in args.modes:
            values = [100 * scores[Run(mode, shots, seed)] for seed in args.seeds]
            cells.append(f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else ""))
        lines.append(f"| {shots} | {100 * zero_shot:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(report_errors(main))
