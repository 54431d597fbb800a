"""Measure a model on generated scenes: COCO AP, AP50 on unseen colour-kind pairs, Recall@1 of phrase grounding.

    python tools/evaluate_scenes.py [--model glip_nano | --config-file CONFIG --weights FILE] [--data DIR] [--out FILE]

Where DIR has no validation (DIR/val) or novel (DIR/novel) scenes, the fixed sets are generated first.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from maskrcnn_benchmark.cli.console import OK, Parser, processors, report_errors
from maskrcnn_benchmark.cli.predict import add_model_arguments, count, load_detector
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.testing.scenes import ScenesMeasurement
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.scenes.statistics import read_scene_statistics

FIXED_SETS = {"val": (1000, 0), "novel": (500, 0)}  # number of scenes, seed


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="tools/evaluate_scenes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser, batch_size=16)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("DATASET/scenes"),
        metavar="DIR",
        help="folder of the sets; default: %(default)s",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the figures")
    parser.add_argument("--limit", type=count, metavar="N", help="evaluate only the first pictures and sentences")
    parser.add_argument(
        "--workers",
        type=count,
        metavar="N",
        default=processors(),
        help="processes that generate scenes; default: one per core",
    )
    args = parser.parse_args(argv)
    detector = load_detector(args)
    folders = {name: scenes_folder(args.data, name, args.workers) for name in FIXED_SETS}
    statistics = {name: read_scene_statistics(folder) for name, folder in folders.items()}
    for name, numbers in statistics.items():
        print(f"--- {name}: {folders[name]}\n{numbers}")
    started = time.monotonic()
    figures = measure(detector, folders, args.batch_size, args.limit)
    print(f"--- {detector.name} on {detector.device}, {time.monotonic() - started:.0f} s\n{as_table(figures)}")
    if args.out is not None:
        record = {
            "model": detector.name,
            "device": str(detector.device),
            "torch": torch.__version__,
            "limit": args.limit,
            "figures": figures,
            "statistics": {name: numbers.as_dict() for name, numbers in statistics.items()},
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return OK


def scenes_folder(data: Path, name: str, workers: int) -> Path:
    """The folder of a fixed set, generated where it is missing."""
    folder = data / name
    if not (folder / "instances.json").is_file():
        number, seed = FIXED_SETS[name]
        print(f"generating {number} scenes in {folder}", flush=True)
        write_dataset(folder, name, number, seed, workers=workers, progress=lambda scenes: tqdm(scenes, total=number))
    return folder


def measure(detector: Detector, folders: dict[str, Path], batch_size: int, limit: int | None) -> dict:
    """All figures, by task."""

    def progress(task: str):
        def wrap(batches: Iterable) -> Iterable:
            return tqdm(batches, desc=task)

        return wrap

    def measurement(task: str) -> ScenesMeasurement:
        return ScenesMeasurement(detector, batch_size, limit, progress(task))

    return {
        "val_detection": measurement("detection").detection(folders["val"]),
        "novel_pairs": measurement("novel pairs").pairs(folders["novel"], novel=True),
        "seen_pairs": measurement("seen pairs").pairs(folders["val"], novel=False),
        "val_grounding": measurement("grounding").grounding(folders["val"]),
    }


def as_table(figures: dict) -> str:
    """The figures as lines of text, those of the table in README first."""
    lines = [
        f"val COCO AP             {figures['val_detection']['AP']:.4f}",
        f"novel pairs AP50        {figures['novel_pairs']['AP50']:.4f}",
        f"grounding Recall@1      {figures['val_grounding']['Recall@1_all']:.4f}",
    ]
    for task, values in figures.items():
        lines.append(f"{task}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(report_errors(main))
