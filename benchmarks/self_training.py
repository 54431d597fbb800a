"""Self-training on drawn scenes: what pseudo-labels of scenes without labels add to a tenth of the labels.

    python benchmarks/self_training.py --work OUTPUT/self_training [--processes 8] [--teacher glip_nano|few|DIR]

Two students, equal in everything else (weights at the start, steps, batch, schedule), are trained from random weights:
`few` on the labelled scenes, `both` on these and on the pseudo-labels that the teacher gives the others. Then both are
measured on validation scenes (COCO AP with all kinds as prompt) and a table is printed. `--teacher few` lets the first
student label. Every step leaves its result in the folder, so the same command goes on where it stopped, and
`--max-minutes` cuts a long run into short ones. A step of 64 pictures takes an H200 0.4 seconds, so several GPUs
(`--processes`) are welcome. In a minute or two on a CPU:

    python benchmarks/self_training.py --work /tmp/tiny --labelled 8 --unlabelled 16 --val 4 --iterations 2 \\
        --batch-size 2 --size 128 --workers 0
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from measure import ROOT, machine
from tqdm import tqdm

from maskrcnn_benchmark.cli.console import OK, PARTIAL_FAILURE, CommandError, Parser, processors, report_errors
from maskrcnn_benchmark.cli.predict import count
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.export import export_model
from maskrcnn_benchmark.engine.testing.scenes import ScenesMeasurement
from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.utils.complete_files import write_complete

SETS = {"labelled": ("train", 11), "unlabelled": ("train", 12), "val": ("val", 0)}
"""Split and seed of the scenes; the embedded model was trained on the seeds 1 and 2."""

CAPTIONS = ("names", "sentence", "list", "kinds")
"""Texts of a scene without labels: the names of all kinds, which say nothing about it; or captions of the generator."""

FEW, BOTH = "few", "both"
MODEL_CONFIG = ROOT / "configs" / "scenes" / "glip_nano.yaml"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="benchmarks/self_training.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of everything")
    parser.add_argument("--labelled", type=count, default=2000, metavar="N", help="scenes (%(default)s)")
    parser.add_argument("--unlabelled", type=count, default=20000, metavar="N", help="scenes (%(default)s)")
    parser.add_argument("--val", type=count, default=1000, metavar="N", help="scenes (%(default)s)")
    parser.add_argument("--captions", nargs="+", choices=CAPTIONS, default=["names", "sentence"], help="(%(default)s)")
    parser.add_argument("--teacher", default="glip_nano", help="a model, or 'few' for the first student (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the teacher's scores (%(default)s)")
    parser.add_argument("--iterations", type=count, default=2000, metavar="N", help="of each student (%(default)s)")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N", help="of training (%(default)s)")
    parser.add_argument("--copies", type=count, default=3, metavar="N", help="of the labels among both (%(default)s)")
    parser.add_argument("--size", type=count, default=480, metavar="N", help="shorter side of pictures (%(default)s)")
    parser.add_argument("--processes", type=count, default=1, metavar="N", help="that train (%(default)s)")
    parser.add_argument(
        "--label-processes", type=count, default=4 if torch.cuda.is_available() else 1, metavar="N",
        help="that label; they share the first GPU (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=min(processors(), 14), metavar="N", help="of the loader (%(default)s)"
    )
    parser.add_argument("--max-minutes", type=float, metavar="M", help="train no longer; the same command goes on")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.max_minutes if args.max_minutes else None
    args.work.mkdir(parents=True, exist_ok=True)
    _check_arguments(args)
    for name in SETS:
        draw(args, name)
    if not train(args, FEW, deadline):
        return PARTIAL_FAILURE
    label(args)
    if not train(args, BOTH, deadline):
        return PARTIAL_FAILURE
    print(table(args, {student: measure(args, student) for student in (FEW, BOTH)}))
    return OK


def _check_arguments(args: argparse.Namespace) -> None:
    """Notes what the folder was made with. Raises: CommandError if that was something else."""
    passing = ("work", "max_minutes", "processes", "label_processes", "workers")
    wanted = {name: value for name, value in vars(args).items() if name not in passing}
    path = args.work / "arguments.json"
    if path.is_file() and json.loads(path.read_text()) != wanted:
        raise CommandError(f"{args.work} was begun with other arguments, see {path}: name another folder")
    write_complete(path, json.dumps(wanted) + "\n")


def draw(args: argparse.Namespace, name: str) -> None:
    """Draws a set of scenes, and writes the pairs of those without labels: their boxes are not used."""
    folder, number = args.work / name, getattr(args, name)
    split, seed = SETS[name]
    if not folder.is_dir():
        workers = processors()
        write_dataset(folder, split, number, seed, workers=workers, progress=lambda scenes: tqdm(scenes, name, number))
    if name == "unlabelled":
        images = json.loads((folder / "grounding.json").read_text())["images"]
        files = {record["file_name"] for record in images}
        texts = [
            (record["file_name"], record["caption"]) for record in images if record["caption_type"] in args.captions
        ]
        if "names" in args.captions:
            texts += [(file, ". ".join(KINDS) + ".") for file in files]
        lines = [json.dumps({"file_name": f"images/{file}", "caption": text}) + "\n" for file, text in sorted(texts)]
        write_complete(folder / "pairs.jsonl", "".join(lines))


def configuration(args: argparse.Namespace, student: str) -> Path:
    """The configuration file of a student: the embedded model's, from random weights, on its data."""
    content = yaml.safe_load(MODEL_CONFIG.read_text())
    scenes = {"img_dir": str(args.work / "labelled" / "images")}
    register: dict[str, Any] = {
        "detection": {"type": "grounding", **scenes, "ann_file": str(args.work / "labelled" / "instances.json")},
        "phrases": {"type": "modulated", **scenes, "ann_file": str(args.work / "labelled" / "grounding.json")},
        "pseudo": {"type": "caption", "yaml_file": str(args.work / "labels" / "data.yaml")},
    }
    register["phrases"]["is_train"] = True
    gold = ["detection", "phrases"]
    names = gold if student == FEW else gold * args.copies + ["pseudo"]
    content["DATASETS"] |= {"REGISTER": register, "TRAIN": names, "TEST": []}
    content["INPUT"] |= {"MIN_SIZE_TRAIN": args.size, "MIN_SIZE_TEST": args.size}
    content["SOLVER"] |= {
        "IMS_PER_BATCH": args.batch_size,
        "MAX_ITER": args.iterations,
        "MAX_EPOCH": 0,
        "WARMUP_ITERS": args.iterations // 7,
        "MODEL_EMA": max(0.0, round(1 - 5 / args.iterations, 5)),
        "CHECKPOINT_PERIOD": args.iterations,
        "CUDA_GRAPHS": True,  # all scenes have one size; a CPU takes no notice
    }
    content["DATALOADER"] |= {"NUM_WORKERS": args.workers}
    content["OUTPUT_DIR"] = str(args.work / student)
    path = args.work / f"{student}.yaml"
    write_complete(path, yaml.safe_dump(content, sort_keys=False))
    return path


def train(args: argparse.Namespace, student: str, deadline: float | None) -> bool:
    """Trains a student, or goes on with it, and exports it; returns whether it is finished."""
    folder, config = args.work / f"{student}_model", configuration(args, student)
    if folder.is_dir():
        return True
    words = ["--config-file", str(config), "--skip-test"]
    if not torch.cuda.is_available():
        words += ["MODEL.DEVICE", "cpu"]
    if deadline is not None:
        minutes = (deadline - time.monotonic()) / 60
        if minutes < 0.2:
            print(f"no time left to train '{student}': run the same command again")
            return False
        words += ["--max-minutes", f"{minutes:.2f}"]
    run("train_net.py", words, args.processes)
    final = args.work / student / "model_final.pth"
    if not final.is_file():
        print(f"'{student}' is not finished: run the same command again")
        return False
    export_model(final, config, folder)
    return True


def label(args: argparse.Namespace) -> None:
    """Lets the teacher label the scenes without labels."""
    out, pairs = args.work / "labels", args.work / "unlabelled" / "pairs.jsonl"
    if (out / "data.yaml").is_file():
        return
    teacher = str(args.work / f"{FEW}_model") if args.teacher == FEW else args.teacher
    words = ["--pairs", str(pairs), "--out", str(out), "--model", teacher, "--threshold", str(args.threshold)]
    words += ["--device", "cuda:0" if torch.cuda.is_available() else "cpu"]
    run("pseudo_label.py", [*words, "--batch-size", "16", "--pairs-per-shard", "500"], args.label_processes)


def run(tool: str, words: Sequence[str], processes: int) -> None:
    """Runs a tool in so many processes. Raises: CommandError if it fails."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launcher = launcher if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tools" / tool), *words]
    code = subprocess.run(command).returncode
    if code:
        raise CommandError(f"{' '.join(command)} ended with exit code {code}")


def measure(args: argparse.Namespace, student: str) -> dict[str, float]:
    """COCO figures of a student on the validation scenes."""
    path = args.work / f"{student}_figures.json"
    if not path.is_file():
        detector = Detector.from_pretrained(args.work / f"{student}_model", precision="fp32")
        figures = ScenesMeasurement(detector, 16, None, _bar(f"measure {student}")).detection(args.work / "val")
        write_complete(path, json.dumps(figures, indent=2) + "\n")
    return json.loads(path.read_text())


def _bar(text: str) -> Callable[[Iterable], Iterable]:
    return lambda batches: tqdm(batches, desc=text)


def table(args: argparse.Namespace, figures: dict[str, dict[str, float]]) -> str:
    """What was trained on what, and the figures in percent."""
    labels = json.loads((args.work / "labels" / "statistics.json").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = {
        FEW: f"{args.labelled:,} labelled scenes",
        BOTH: f"the same, and {args.unlabelled:,} scenes with {labels['boxes']:,} pseudo boxes by {args.teacher}",
    }
    percent = {
        student: " | ".join(f"{100 * figures[student][name]:.1f}" for name in ("AP", "AP50", "AP75"))
        for student in data
    }
    gain = 100 * (figures[BOTH]["AP"] - figures[FEW]["AP"])
    return "\n".join(
        [
            f"{args.iterations} steps of {args.batch_size} pictures from random weights; {args.val} validation scenes, "
            f"all {len(KINDS)} kinds as prompt; {machine(device)}",
            f"pseudo-labels: {labels['pairs']:,} pairs ({', '.join(args.captions)}), {labels['rows']:,} with boxes, "
            f"{labels['unique_phrases']:,} unique phrases, threshold {args.threshold}",
            "",
            "| trained on | AP | AP50 | AP75 |",
            "|---|---|---|---|",
            *(f"| {data[student]} | {percent[student]} |" for student in data),
            "",
            f"gain: {gain:+.1f} AP",
        ]
    )


if __name__ == "__main__":
    sys.exit(report_errors(main))
