"""Time and memory of one training step on a GPU, with and without its accelerations: python benchmarks/training.py

The step is that of the trainer, on one process: see benchmarks/scaling.py. "accelerated" records CUDA graphs
(SOLVER.CUDA_GRAPHS) and fuses the attention of the fusion; "plain" does neither, and is measured in the same process.
What optimizer, clipping and averaging take is the difference to steps without them.
--profile adds the kernels that take most of an accelerated step.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

import scaling
import torch
from measure import machine

from maskrcnn_benchmark.engine.trainer import Trainer
from maskrcnn_benchmark.modeling.fusion import bi_attention

HEADER = (
    "| pictures | precision | path | ms / step: median (fastest - slowest) of rounds "
    "| of that optimizer, clipping, averaging ms | pictures / s | peak memory GiB | kernels / step |\n"
    "|---|---|---|---|---|---|---|---|"
)
WITHOUT_CHECKPOINTS = (
    *("MODEL.BACKBONE.USE_CHECKPOINT", False, "MODEL.DYHEAD.USE_CHECKPOINT", False),
    *("MODEL.LANGUAGE_BACKBONE.USE_CHECKPOINT", False),
)
STEPS_PER_ROUND = 2


def options(dtype: str, *, is_accelerated: bool) -> list:
    """KEY VALUE pairs of a measurement."""
    pairs = [*WITHOUT_CHECKPOINTS, "SOLVER.USE_AMP", True, "SOLVER.AMP_DTYPE", dtype, "SOLVER.MODEL_EMA", 0.999]
    return [*pairs, "SOLVER.CUDA_GRAPHS", is_accelerated]


def measure(args: argparse.Namespace, batch_size: int, dtype: str, *, is_accelerated: bool) -> str:
    """A line of the table under HEADER, and with --profile the slowest kernels."""
    argv = ["--device", "cuda", "--batch-size", str(batch_size)]
    settings = scaling.parse(argv)
    settings.opts = [str(option) for option in options(dtype, is_accelerated=is_accelerated)]
    device = torch.device("cuda")
    serves = bi_attention.serves_two_way_attention
    if not is_accelerated:
        bi_attention.serves_two_way_attention = lambda *_: False
    try:
        trainer, batch = scaling.make_trainer(scaling.configuration(settings), device, settings)
        trainer.model.train()
        for _ in range(args.warm_up):
            trainer.train_batch(batch)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        seconds = time_steps(trainer, batch, args.rounds)
        # A recording's activations count as reserved only.
        peak = max(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) / 2**30
        kernels = _kernels(lambda: trainer.train_batch(batch))
        trainer.step.finish, trainer.ema = (lambda: torch.zeros((), dtype=torch.bool, device=device)), None
        gradients_s = median(time_steps(trainer, batch, args.rounds))
    finally:
        bi_attention.serves_two_way_attention = serves
    step_s = median(seconds)
    line = (
        f"| {batch_size} | {dtype} | {'accelerated' if is_accelerated else 'plain'} "
        f"| {1e3 * step_s:.1f} ({1e3 * min(seconds):.1f} - {1e3 * max(seconds):.1f}) of {len(seconds)} "
        f"| {1e3 * (step_s - gradients_s):.1f} | {batch_size / step_s:.2f} | {peak:.1f} "
        f"| {sum(count for _, count, _ in kernels)} |"
    )
    if args.profile and is_accelerated:
        total = sum(ms for ms, _, _ in kernels)
        line += f"\n\n{total:.1f} ms of kernels\n" + "\n".join(
            f"{ms:8.2f} ms {count:5d} x {name[:100]}" for ms, count, name in kernels[: args.profile]
        )
    return line


def time_steps(trainer: Trainer, batch: tuple, rounds: int) -> list[float]:
    """Seconds of a step in each round."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(STEPS_PER_ROUND):
            trainer.train_batch(batch)
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / STEPS_PER_ROUND)
    return seconds


def _kernels(step) -> list[tuple[float, int, str]]:
    """Milliseconds, number and name of the kernels of one step, slowest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total > 0]
    return sorted(((event.self_device_time_total / 1e3, event.count, event.key) for event in events), reverse=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8], help="default: %(default)s")
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float16", "bfloat16"), default=["float16"], help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=20, help=f"of {STEPS_PER_ROUND} steps; default: %(default)s")
    parser.add_argument("--warm-up", type=int, default=8, help="steps before; default: %(default)s")
    parser.add_argument("--accelerated-only", action="store_true", help="leave the plain modules out")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="also list the N slowest kernels")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.stdout.write(f"{machine(torch.device('cuda'))}\n\n{HEADER}\n")
    for batch_size in args.batch_sizes:
        for dtype in args.dtypes:
            for is_accelerated in (True,) if args.accelerated_only else (True, False):
                sys.stdout.write(f"{measure(args, batch_size, dtype, is_accelerated=is_accelerated)}\n")
                sys.stdout.flush()
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
