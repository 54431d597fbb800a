"""Speed and memory of the ways of fine-tuning beside tuning everything: python benchmarks/tuning.py

A step is that of the trainer on one process (see benchmarks/scaling.py), recorded as CUDA graphs, in float16: GLIP-T, 4
pictures of 800x1344 and the COCO prompt. What is frozen is in evaluation mode as in training, text is encoded once, and
"cached" keeps the features of the pictures. The bound is the operations of the network, forward and backward, over the
rate of a large matrix product on the same card. --count counts the operations again (no GPU needed), one minute a mode.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import scaling
import torch
import workload
from floors import measure_tflop_per_s
from measure import machine, synchronise
from torch import nn
from training import WITHOUT_CHECKPOINTS

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.trainer import Trainer
from maskrcnn_benchmark.engine.training.profiling import Operations, count_operations
from maskrcnn_benchmark.engine.tuning.feature_cache import FeatureCache
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.detector import build_detection_model

HEADER = (
    "| mode | trained parameters | ms / step: median (fastest - slowest) of rounds | pictures / s | of full "
    "| peak memory GiB | of full | GFLOP / picture, forward + backward | bound ms | bar |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


class Mode(NamedTuple):
    """A row of the table.

    Attributes:
        name, preset: of the row, and SOLVER.TUNING_HIGHLEVEL_OVERRIDE. is_cached: keep features of pictures.
        speed, memory: bars against full tuning: pictures/s at least, peak memory at most; None for none.
    """

    name: str
    preset: str
    is_cached: bool = False
    speed: float | None = None
    memory: float | None = None


MODES = (
    Mode("full", "full"),
    Mode("linear", "linear_prob", speed=2.5, memory=1 / 3),
    Mode("prompt", "language_prompt_v2", speed=1.5, memory=0.7),
    Mode("prompt, cached", "language_prompt_v2", is_cached=True, speed=1.7),
)


OPERATIONS = {
    "full": Operations(45.9, 91.8, 227.5, 454.4, 722.7, 1445.4),
    "linear_prob": Operations(45.9, 0.0, 227.5, 0.0, 722.7, 3.1),
    "language_prompt_v2": Operations(45.9, 0.0, 227.5, 0.0, 722.7, 1102.7),
}
"""GFLOP of one picture of GLIP-T at 800x1344 with 256 tokens, of every preset, by --count.

The prompt's gradient passes both operands of the fusion's products."""


def operations_of(mode: Mode) -> tuple[float, float]:
    """GFLOP (forward, backward) of a picture in a mode; frozen text is encoded before, cached pictures too."""
    counted = OPERATIONS[mode.preset]
    text = counted.text_forward if mode.preset == "full" else 0.0
    picture = 0.0 if mode.is_cached else counted.picture_forward
    backward = counted.text_backward + counted.picture_backward + counted.head_backward
    return text + picture + counted.head_forward, backward


class Measurement(NamedTuple):
    """Seconds of a step in each round, peak memory in bytes (0 on a CPU), and the number of trained parameters."""

    seconds: list[float]
    peak_bytes: int
    parameters: int


def configuration(mode: Mode, args: argparse.Namespace, *, records: bool) -> CfgNode:
    """The configuration of a mode; the rate is low, since random weights tell nothing about rates."""
    args.opts = [
        *map(str, WITHOUT_CHECKPOINTS),
        *("SOLVER.USE_AMP", str(args.device == "cuda"), "SOLVER.AMP_DTYPE", "float16", "SOLVER.MODEL_EMA", "0.0"),
        *("SOLVER.CUDA_GRAPHS", str(records), "SOLVER.BASE_LR", "0.000001", "SOLVER.LANG_LR", "0.000001"),
        *("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode.preset, "MODEL.WEIGHT", ""),
    ]
    return tuning_highlevel_override(scaling.configuration(args))


def measure(mode: Mode, args: argparse.Namespace, folder: str, *, records: bool) -> Measurement:
    """Times steps of a mode until there are enough or `args.seconds` have passed."""
    device = torch.device(args.device)
    trainer, batch = scaling.make_trainer(configuration(mode, args, records=records), device, args)
    model: nn.Module = trainer.model.train()
    if mode.is_cached:
        model.picture_memory = FeatureCache(folder, model.backbone, "")
        batch[0].names = [f"picture {number}" for number in range(args.batch_size)]
    for _ in range(args.warm_up):
        trainer.train_batch(batch)
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed_steps(trainer, batch, device, args)
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0  # recordings are only reserved
    return Measurement(seconds, peak, sum(p.numel() for p in model.parameters() if p.requires_grad))


def timed_steps(trainer: Trainer, batch: tuple, device: torch.device, args: argparse.Namespace) -> list[float]:
    """Seconds of a step in each round; three rounds at least."""
    seconds: list[float] = []
    first = time.perf_counter()
    while len(seconds) < 3 or (len(seconds) < args.rounds and time.perf_counter() - first < args.seconds):
        start = time.perf_counter()
        for _ in range(args.steps):
            trainer.train_batch(batch)
        synchronise(device)
        seconds.append((time.perf_counter() - start) / args.steps)
    return seconds


def try_to_measure(mode: Mode, args: argparse.Namespace, folder: str) -> tuple[Measurement | None, str]:
    """The measurement and a note on it: without recordings where they fail, none where the mode fails."""
    notes = []
    for records in (True, False) if args.device == "cuda" else (False,):
        try:
            return measure(mode, args, folder, records=records), "; ".join(notes)
        except (RuntimeError, ValueError) as error:  # CUDA's errors are RuntimeErrors
            lines = str(error).splitlines() or [""]
            notes.append(f"{mode.name} {'recorded' if records else 'not recorded'}: {type(error).__name__}: {lines[0]}")
        finally:
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()
    return None, "; ".join(notes)


def row(mode: Mode, outcome: Measurement, full: Measurement, batch_size: int, tflop_per_s: float) -> str:
    """A line of the table under HEADER; `tflop_per_s` of a large product is 0 on a CPU."""
    step_s, full_s = median(outcome.seconds), median(full.seconds)
    spread = f"{1e3 * min(outcome.seconds):.1f} - {1e3 * max(outcome.seconds):.1f}"
    speed = (
        f"| {mode.name} | {outcome.parameters:,} | {1e3 * step_s:.1f} ({spread}) of {len(outcome.seconds)} "
        f"| {batch_size / step_s:.2f} | {full_s / step_s:.2f} "
    )
    if not outcome.peak_bytes:  # a CPU, on which the embedded model runs: operations and bars are those of GLIP-T
        return f"{speed}| - | - | - | - | - |"
    memory = outcome.peak_bytes / full.peak_bytes
    forward, backward = operations_of(mode)
    bound_ms = batch_size * (forward + backward) / tflop_per_s
    return (
        f"{speed}| {outcome.peak_bytes / 2**30:.2f} | {memory:.2f} | {forward:.0f} + {backward:.0f} | {bound_ms:.1f} "
        f"| {_verdict(mode, full_s / step_s, memory)} |"
    )


def _verdict(mode: Mode, speed: float, memory: float) -> str:
    parts = []
    if mode.speed is not None:
        parts.append(f"speed >= {mode.speed:g}: {'yes' if speed >= mode.speed else 'no'}")
    if mode.memory is not None:
        parts.append(f"memory <= {mode.memory:.2f}: {'yes' if memory <= mode.memory else 'no'}")
    return ", ".join(parts) or "-"


def count_preset(preset: str, size: tuple[int, int]) -> Operations:
    """GFLOP of a training step of a preset on one picture of (height, width)."""
    args = scaling.parse(["--device", "cpu", "--config-file", str(workload.GLIP_T)])
    model = build_detection_model(configuration(Mode(preset, preset), args, records=False))
    macs = count_operations(model, size, workload.coco_prompt(model.tokenizer).caption, is_training=True)
    return Operations(*(round(2e-9 * one, 1) for one in macs))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: %(default)s",
    )
    parser.add_argument("--batch-size", type=int, help="default: 4, on a CPU 2")
    parser.add_argument("--rounds", type=int, default=20, help="at most, three at least; default: %(default)s")
    parser.add_argument("--steps", type=int, default=2, help="of a round; default: %(default)s")
    parser.add_argument(
        "--warm-up", type=int, default=7, help="steps before; recordings are made in the fourth; default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="after which no round begins; default: %(default)s")
    parser.add_argument("--count", action="store_true", help="count operations and end")
    own = parser.parse_args(argv)
    args = scaling.parse(["--device", own.device])  # the model, its size and the boxes
    for name in ("rounds", "steps", "warm_up", "seconds", "count"):
        setattr(args, name, getattr(own, name))
    args.batch_size = own.batch_size or args.batch_size
    return args


def main() -> int:
    args = parse()
    if args.count:
        for preset in dict.fromkeys(mode.preset for mode in MODES):
            sys.stdout.write(f'    "{preset}": {count_preset(preset, (800, 1344))},\n')
        return 0
    started, rate = time.perf_counter(), 0.0
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        rate = measure_tflop_per_s(find_precision("fp16"))
        torch.cuda.empty_cache()
    sys.stdout.write(f"{machine(torch.device(args.device))}; {rate:.0f} TFLOP/s\n\n{HEADER}\n")
    full: Measurement | None = None
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            outcome, note = try_to_measure(mode, args, folder)
            notes += [note] if note else []
            if outcome is not None:
                full = full or outcome
                sys.stdout.write(f"{row(mode, outcome, full, args.batch_size, rate)}\n")
                sys.stdout.flush()
    sys.stdout.write("".join(f"\n{note}" for note in notes) + f"\n{time.perf_counter() - started:.0f} s in all\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
