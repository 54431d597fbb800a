"""Few-shot training on a shifted domain: scenes drawn as blueprints, a style that the embedded model has never seen.

    python tools/few_shot_scenes.py --output OUTPUT/few_shot [--modes full prompt linear] [--shots 1 3 5 10]

Training, validation and test scenes are generated once and lie beside the runs; the test set decides nothing. The same
command goes on where it was stopped. Ends with a table of AP on the test set in percent, mean and spread over seeds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch

from maskrcnn_benchmark.cli.console import OK, PARTIAL_FAILURE, Parser, processors, report_errors
from maskrcnn_benchmark.cli.predict import DEFAULT_MODEL, count
from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.devices import resolve_device
from maskrcnn_benchmark.engine.evaluation_run import EvaluationOptions, Task, evaluate_tasks
from maskrcnn_benchmark.engine.finetune import TuningOptions, fine_tune
from maskrcnn_benchmark.engine.own_data import RECIPES, OwnData, plan_own_data
from maskrcnn_benchmark.engine.task_model import TaskModel
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

STYLE, TEST_SET = "blueprint", "own_test"
PARTS = {"train": ("train", 11), "val": ("val", 12), "test": ("novel", 13)}
"""Split of the scenes and seed of each part; the test part also has pairs of colour and kind never seen in training."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="tools/few_shot_scenes.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--modes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--shots", nargs="+", type=count, default=[1, 3, 5, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device")
    parser.add_argument("--iterations", type=count, help="of every training; default: as glip finetune chooses")
    parser.add_argument("--batch-size", type=count)
    parser.add_argument("--scenes", nargs=3, type=count, default=[300, 40, 200], metavar=("TRAIN", "VAL", "TEST"))
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    setup_logger("maskrcnn_benchmark", str(args.output), 0)
    for (part, (split, seed)), number in zip(PARTS.items(), args.scenes, strict=True):
        if not (args.output / "scenes" / part).is_dir():
            print(f"drawing {number} scenes: {part}", flush=True)
            folder = args.output / "scenes" / part
            write_dataset(folder, split, number, seed, workers=processors(), style=STYLE)
    zero_shot = measure_start(args)
    print(f"zero-shot: AP {100 * zero_shot:.1f}", flush=True)
    scores: dict[str, list[float]] = {}
    for shots in args.shots:
        for mode in args.modes:
            for seed in args.seeds:
                score = train(args, mode, shots, seed)
                if score is None:
                    return PARTIAL_FAILURE
                scores.setdefault(f"{mode} {shots}", []).append(score)
                print(f"{mode}, {shots} shots, seed {seed}: AP {100 * score:.1f}", flush=True)
            record = {"zero_shot": zero_shot, "scores": scores, "device": args.device, "torch": torch.__version__}
            (args.output / "few_shot.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(args, zero_shot, scores))
    return OK


def plan(args: argparse.Namespace, mode: str, shots: int, seed: int, output: Path) -> CfgNode:
    """The configuration of a training, as `glip finetune` makes it, with the test set."""
    scenes = args.output / "scenes"
    own = OwnData(
        annotations=scenes / "train" / "instances.json", images=scenes / "train" / "images", output=output,
        validation=scenes / "val" / "instances.json", validation_images=scenes / "val" / "images", model=args.model,
        mode=mode, shots=shots, seed=seed, device=str(resolve_device(args.device)), iterations=args.iterations,
        batch_size=args.batch_size,
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
    cfg = plan(args, "full", 1, 0, folder)
    cfg.DATASETS.TEST = (TEST_SET,)
    model = TaskModel(cfg, cfg.MODEL.WEIGHT, torch.device(cfg.MODEL.DEVICE), DEFAULT_PRECISION)
    options = EvaluationOptions(resume=True, weight=cfg.MODEL.WEIGHT)
    return evaluate_tasks([Task("", cfg)], model, folder, options)[""][TEST_SET]["AP"]


def train(args: argparse.Namespace, mode: str, shots: int, seed: int) -> float | None:
    """AP of the weights that were best in validation; None where the training was stopped."""
    cfg = plan(args, mode, shots, seed, args.output / f"{mode}_{shots}_{seed}")
    options = TuningOptions(tests_best=True, test_sets=(TEST_SET,))
    result = fine_tune(cfg, torch.device(cfg.MODEL.DEVICE), options)
    return result.test[TEST_SET]["AP"] if result.is_finished else None


def table(args: argparse.Namespace, zero_shot: float, scores: dict[str, list[float]]) -> str:
    """Markdown: a row for each number of shots, a column for each mode."""
    lines = [f"| shots | zero-shot | {' | '.join(args.modes)} |", "|---|---|" + "---|" * len(args.modes)]
    for shots in args.shots:
        cells = []
        for mode in args.modes:
            values = [100 * value for value in scores[f"{mode} {shots}"]]
            cells.append(f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else ""))
        lines.append(f"| {shots} | {100 * zero_shot:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(report_errors(main))
