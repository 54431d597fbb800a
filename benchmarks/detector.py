"""Speed of a full-size detector, from pixels and a caption to boxes.

python benchmarks/detector.py --batch-size 8 --dtype bfloat16 --device cuda

The plain modules, also on a CPU; `inference.py` compares them with the accelerated ones on a GPU. The prompt is the 80
COCO names. Without --weights the parameters are those of the parity tests, a formula of their names.
"""

import argparse
import os
import sys
from contextlib import nullcontext

import numpy as np
import torch
import workload
from measure import Timing, machine, time_runs
from torch import Tensor, nn

HEADER = (
    "| configuration | picture | batch | dtype | ms / call: median (fastest - slowest) of runs | pictures / s "
    "| text ms | image ms | detect ms | boxes | memory GiB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def build(args: argparse.Namespace) -> tuple[nn.Module, Tensor]:
    """The detector in eval mode and a batch of pictures (B, 3, H, W)."""
    device = torch.device(args.device)
    work = workload.build(args.config_file, device, weights=args.weights, text_encoder=args.text_encoder)
    sizes = [tuple(args.size)] * args.batch_size
    return work.model, work.upload(workload.pictures(sizes, 0, pinned=False)).tensors


@torch.inference_mode()
def row(args: argparse.Namespace) -> str:
    """Measures and returns one line of the table under HEADER."""
    device = torch.device(args.device)
    model, images = build(args)
    prompt = workload.coco_prompt(model.tokenizer)
    captions, labels = [prompt.caption] * len(images), prompt.label_to_tokens

    def precision():
        if args.dtype == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, args.dtype))

    def whole():
        with precision():
            return [boxes.to("cpu") for boxes in model(images, captions=captions, positive_map=labels)]

    def part(function):
        def run():
            with precision():
                return function()

        return time_runs(run, device, runs=args.runs, warm_up=args.warm_up)

    found = whole()
    assert all(bool(torch.isfinite(boxes.bbox).all()) for boxes in found), "boxes are not finite"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    total = time_runs(whole, device, runs=args.runs, warm_up=args.warm_up)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    with precision():
        text, features = model.encode_text(captions), model.encode_image(images)
    parts = [
        part(lambda: model.encode_text(captions)),
        part(lambda: model.encode_image(images)),
        part(lambda: model.detect(features, text, labels)),
    ]
    name = os.path.splitext(os.path.basename(args.config_file))[0]
    count = np.mean([len(boxes) for boxes in found])
    return (
        f"| {name} | {args.size[0]}x{args.size[1]} | {len(images)} | {args.dtype} | {_milliseconds(total)} "
        f"| {len(images) / total.median_s:.2f} | {' | '.join(f'{1e3 * timing.median_s:.1f}' for timing in parts)} "
        f"| {count:.0f} | {'-' if memory != memory else f'{memory:.1f}'} |"
    )


def _milliseconds(timing: Timing) -> str:
    fastest, slowest = 1e3 * timing.fastest_s, 1e3 * timing.slowest_s
    return f"{1e3 * timing.median_s:.1f} ({fastest:.1f} - {slowest:.1f}) of {timing.runs}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    workload.add_model_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"), help="default: 800 1344"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: %(default)s"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--warm-up", type=int, default=3, help="default: %(default)s")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    sys.stdout.write(f"{machine(torch.device(args.device))}\n\n{HEADER}\n{row(args)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
