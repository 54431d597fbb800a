"""Weak scaling of the training step over the GPUs of a machine: every process has the same share, N as many pictures.

    python benchmarks/scaling.py                       1, 2, 4, ... processes, up to the GPUs there are
    python benchmarks/scaling.py --processes 1 4 SOLVER.FSDP True MODEL.DYHEAD.USE_CHECKPOINT True

The step is that of the trainer: forward and backward pass in mixed precision with the dropouts of the configuration,
exchange of gradients, clipping, AdamW, averaged weights, loss meters; the pictures wait in memory. Without a GPU the
embedded model is trained by one and by two processes that talk through gloo, each with one thread.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.multiprocessing as multiprocessing
import workload
from measure import ROOT, machine, synchronise

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.engine.trainer import Trainer, TrainerOptions, amp_dtype
from maskrcnn_benchmark.engine.training.parallel import ParallelOptions, distribute
from maskrcnn_benchmark.engine.training.training_run import record_steps
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.text.prompt import build_prompts
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import Checkpointer

NANO = ROOT / "configs" / "scenes" / "glip_nano.yaml"
HEADER = (
    "| processes | pictures / step | ms / step: median (fastest - slowest) of rounds | pictures / s "
    "| efficiency | peak memory GiB |\n|---|---|---|---|---|---|"
)
STEPS_PER_ROUND = 5  # between two looks at the clock, so that the host can run ahead of the GPU as it does in training


class Measurement(NamedTuple):
    """Seconds per step of every round, those of the slowest process, and the most memory that one process used."""

    seconds: list[float]
    peak_bytes: int


def training_batch(model, height: int, width: int, pictures: int, boxes: int, seed: int) -> tuple:
    """What the collator makes of `pictures` pictures of noise with `boxes` boxes each and one long caption."""
    generator = torch.Generator().manual_seed(seed)
    (prompt,) = build_prompts(workload.coco_names(), model.tokenizer)
    labels = list(prompt.label_to_tokens)
    width_of_map = model.text_policy.max_length
    rows = torch.zeros(pictures * boxes, width_of_map)
    targets = []
    for _ in range(pictures):
        corners = torch.rand(boxes, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6])
        sides = 16 + torch.rand(boxes, 2, generator=generator) * torch.tensor([width * 0.35, height * 0.35])
        chosen = [labels[int(torch.randint(len(labels), (), generator=generator))] for _ in range(boxes)]
        target = BoxList(torch.cat((corners, corners + sides), dim=1), (width, height))
        target.add_field("labels", torch.tensor(chosen))
        target.add_field("caption", prompt.caption)
        for row, label in enumerate(chosen, start=boxes * len(targets)):
            tokens = [token for token in prompt.label_to_tokens[label] if token < width_of_map]
            rows[row, tokens] = 1 / max(len(tokens), 1)
        targets.append(target)
    tensors = torch.randn(pictures, 3, height, width, generator=generator)
    if torch.cuda.is_available():
        tensors = tensors.pin_memory()
    return ImageList(tensors, [(height, width)] * pictures), targets, None, rows, None, None


def make_trainer(cfg: CfgNode, device: torch.device, args: argparse.Namespace) -> tuple[Trainer, tuple]:
    """A trainer as the training command makes it, without its data, and a batch of this process."""
    torch.manual_seed(0)
    model = build_detection_model(cfg).to(device).train()
    record_steps(model, cfg)
    batch = training_batch(model, *args.size, args.batch_size, args.boxes, comm.get_rank())
    model, trained, ema_module = distribute(model, device, ParallelOptions.from_config(cfg), with_average=True)
    optimizer = make_optimizer(cfg, model)
    options = TrainerOptions(checkpoint_period=10**6, amp_dtype=amp_dtype(cfg), ema_decay=cfg.SOLVER.MODEL_EMA)
    scheduler, checkpointer = make_lr_scheduler(cfg, optimizer), Checkpointer(model)
    trainer = Trainer(trained, [batch], optimizer, scheduler, checkpointer, device, options, ema_module=ema_module)
    return trainer, batch


def measure(cfg: CfgNode, device: torch.device, args: argparse.Namespace) -> Measurement:
    """Times the steps of this process together with the others."""
    trainer, batch = make_trainer(cfg, device, args)
    trainer.model.train()
    for _ in range(args.warm_up):
        trainer.train_batch(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(args.rounds):
        synchronise(device)
        comm.synchronize()
        start = time.perf_counter()
        for _ in range(STEPS_PER_ROUND):
            trainer.train_batch(batch)
        synchronise(device)
        seconds.append((time.perf_counter() - start) / STEPS_PER_ROUND)
    assert trainer.monitor.check() == "" or trainer.step.scaler is not None, "losses are not finite"
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0  # recordings are only reserved
    everywhere = comm.all_gather(Measurement(seconds, peak))
    return Measurement(
        [max(times) for times in zip(*(one.seconds for one in everywhere), strict=True)],
        max(one.peak_bytes for one in everywhere),
    )


def _process(rank: int, world_size: int, args: argparse.Namespace, folder: str) -> None:
    """Body of one process; the first one saves the outcome."""
    if args.device == "cpu":
        torch.set_num_threads(1)
        device = torch.device("cpu")
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    if world_size > 1:
        comm.init_distributed(f"file://{folder}/store", rank=rank, world_size=world_size, device=device)
    try:
        outcome = measure(configuration(args), device, args)
        if rank == 0:
            torch.save(outcome._asdict(), Path(folder, "outcome"))
    finally:
        comm.destroy_distributed()


def run(world_size: int, args: argparse.Namespace) -> Measurement:
    """Starts the processes and waits for them."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_process, (world_size, args, folder), nprocs=world_size)
        return Measurement(**torch.load(Path(folder, "outcome")))


def configuration(args: argparse.Namespace) -> CfgNode:
    """The configuration of the arguments; the text encoder of GLIP-T is that of the parity tests."""
    cfg = default_config()
    cfg.merge_from_file(args.config_file)
    if cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE == "bert-base-uncased":
        for key in ("MODEL_TYPE", "TOKENIZER_TYPE"):
            cfg.merge_from_list([f"MODEL.LANGUAGE_BACKBONE.{key}", str(workload.GOLDEN / "bert")])
    cfg.merge_from_list(["MODEL.DEVICE", args.device, "SOLVER.WARMUP_ITERS", 0, *args.opts])
    return cfg


def row(world_size: int, args: argparse.Namespace, outcome: Measurement, single_s: float) -> str:
    """A line of the table under HEADER; `single_s` is the time of a step of one process."""
    step_s = median(outcome.seconds)
    pictures = world_size * args.batch_size
    spread = f"{1e3 * min(outcome.seconds):.1f} - {1e3 * max(outcome.seconds):.1f}"
    memory = f"{outcome.peak_bytes / 2**30:.1f}" if outcome.peak_bytes else "-"
    return (
        f"| {world_size} | {pictures} | {1e3 * step_s:.1f} ({spread}) of {len(outcome.seconds)} "
        f"| {pictures / step_s:.2f} | {single_s / step_s:.1%} | {memory} |"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    is_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if is_gpu else "cpu", help="default: %(default)s"
    )
    parser.add_argument("--processes", type=int, nargs="+", metavar="N", help="numbers of processes; 1 comes first")
    parser.add_argument("--config-file", help="default: GLIP-T on a GPU, the embedded model on a CPU")
    parser.add_argument("--batch-size", type=int, help="pictures of a process; default: 4, on a CPU 2")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: 800 1344, or 160 224")
    parser.add_argument("--boxes", type=int, default=10, help="of a picture; default: %(default)s")
    parser.add_argument("--rounds", type=int, help=f"of {STEPS_PER_ROUND} steps; default: 5, on a CPU 3")
    parser.add_argument("--warm-up", type=int, help="steps before; default: 10, on a CPU 2")
    args, args.opts = parser.parse_known_args(argv)
    on_gpu, on_cpu = (workload.GLIP_T, 4, (800, 1344), 5, 10), (NANO, 2, (160, 224), 3, 2)
    names = ("config_file", "batch_size", "size", "rounds", "warm_up")
    for name, value in zip(names, on_gpu if args.device == "cuda" else on_cpu, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.config_file = str(args.config_file)
    devices = torch.cuda.device_count() if args.device == "cuda" else 2
    if args.processes is None:
        args.processes = [2**power for power in range(devices.bit_length()) if 2**power <= devices]
    if args.device == "cuda" and max(args.processes) > devices:
        parser.error(f"--processes {max(args.processes)}: this machine has {devices} GPUs")
    args.processes = sorted({1, *args.processes})
    return args


def main() -> int:
    args = parse()
    started = time.perf_counter()
    name = Path(args.config_file).stem
    title = f"{name}, {args.batch_size} pictures of {args.size[0]}x{args.size[1]} per process, {args.boxes} boxes each"
    sys.stdout.write(f"{machine(torch.device(args.device))}\n\n{title} {' '.join(args.opts)}\n\n{HEADER}\n")
    single_s = 0.0
    for world_size in args.processes:
        outcome = run(world_size, args)
        single_s = single_s or median(outcome.seconds)
        sys.stdout.write(f"{row(world_size, args, outcome, single_s)}\n")
        sys.stdout.flush()
    sys.stdout.write(f"\n{time.perf_counter() - started:.0f} s in all\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
