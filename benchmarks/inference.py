"""Time and memory of detection on a GPU, accelerated beside plain, from bytes on the host to boxes on the host.

python benchmarks/inference.py --batch-size 8 --precision fp16
python benchmarks/inference.py --batch-size 1 --precision fp16 --chunks

Every run has pictures and captions of its own. "plain" are the modules of the model under autocast (16 bit) or with
TensorFloat-32 on or off; "accelerated" is `model.use_precision`. Both have the same weights and the same load.
"""

import argparse
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import workload
from floors import glip_t_gflop, measure_tflop_per_s
from measure import Timing, machine, time_runs
from torch import Tensor
from workload import SelectionLoad, Workload

from maskrcnn_benchmark.modeling.accelerated.inference import float32_products
from maskrcnn_benchmark.modeling.accelerated.precision import Precision, find_precision
from maskrcnn_benchmark.text.prompt import Prompt
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION, PRECISION_NAMES

HEADER = (
    "| configuration | pictures | batch | precision | path | ms / picture: median (fastest - slowest) of runs "
    "| floor ms | boxes | peak GiB | first call s | arguments |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
DISTINCT = 4  # sets of pictures and captions that the runs take in turn


class Job(NamedTuple):
    """One call: pictures on the host, the prompts, and the load of the selection for each prompt."""

    pictures: list[Tensor] | Tensor
    prompts: list[Prompt]
    load: Tensor


class Row(NamedTuple):
    """A measured path: its times, boxes per text, peak memory in GiB, seconds of the first call."""

    timing: Timing
    boxes: float
    memory: float
    first_s: float


def make_jobs(work: Workload, sizes: Sequence[tuple[int, int]], *, chunks: bool) -> list[Job]:
    """Different pictures and captions for the runs; with `chunks` many prompts for each picture."""
    padded = [-(-max(size[axis] for size in sizes) // 32) * 32 for axis in (0, 1)]
    shape = workload.pyramid_of(*padded)
    made = []
    for seed in range(DISTINCT):
        if chunks:
            prompts = workload.many_prompts(work.model.tokenizer, seed=seed)
        else:
            prompts = [workload.coco_prompt(work.model.tokenizer, seed)] * len(sizes)
        longest = max(len(ids) for ids in work.model.tokenizer([prompt.caption for prompt in prompts]).input_ids)
        load = workload.selection_load(shape, prompts, -(-longest // 16) * 16).pin_memory()
        made.append(Job(workload.pictures(sizes, seed, pinned=True), prompts, load))
    return made


def detect(work: Workload, job: Job) -> list:
    """Bytes on the host -> boxes on the host."""
    images = work.upload(job.pictures)
    captions = [prompt.caption for prompt in job.prompts]
    maps = [prompt.label_to_tokens for prompt in job.prompts]
    if len(images) == len(captions):
        found = work.model(images, captions=captions, positive_map=maps)
    else:
        found = work.model.detect(work.model.encode_image(images), work.model.encode_text(captions), maps)
    return [boxes.to("cpu") for boxes in found]


def one_by_one(work: Workload, job: Job) -> list:
    """As `detect`, but every prompt on its own, image included."""
    found = []
    for prompt in job.prompts:
        images = work.upload(job.pictures)
        boxes = work.model(images, captions=[prompt.caption], positive_map=prompt.label_to_tokens)
        found += [part.to("cpu") for part in boxes]
    return found


def measure(work: Workload, made: Sequence[Job], run: Callable, *, runs: int, warm_up: int) -> Row:
    """Times `run(work, job)`; the load of the selection changes between the runs, outside of the timer."""
    device = torch.device("cuda")
    found: list = []
    calls = 0
    logits = torch.empty_like(made[0].load, device=device)
    is_single = run is one_by_one

    def prepare() -> None:
        logits.copy_(made[calls % DISTINCT].load)

    def step() -> None:
        nonlocal calls
        found[:] = run(work, made[calls % DISTINCT])
        calls += 1

    with SelectionLoad(work.model, logits[:1] if is_single else logits):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        first = time_runs(step, device, runs=1, warm_up=0, prepare=prepare)
        timing = time_runs(step, device, runs=runs, warm_up=warm_up, prepare=prepare)
        memory = torch.cuda.max_memory_reserved() / 2**30
    assert all(bool(torch.isfinite(boxes.bbox).all()) for boxes in found), "boxes are not finite"
    return Row(timing, sum(map(len, found)) / len(found), memory, first.median_s)


def build(args: argparse.Namespace) -> Workload:
    """The detector that the arguments name."""
    device = torch.device("cuda")
    return workload.build(args.config_file, device, weights=args.weights, text_encoder=args.text_encoder)


def rows(args: argparse.Namespace, work: Workload) -> list[str]:
    """The lines of the table under HEADER without their last column: plain and accelerated."""
    precision = find_precision(args.precision)
    sizes = [tuple(size) for size in args.size]
    sizes = sizes if len(sizes) > 1 else sizes * args.batch_size
    made = make_jobs(work, sizes, chunks=args.chunks)
    lines = []
    with torch.inference_mode():
        if args.path != "accelerated":
            work.model.use_precision(None)
            runs = args.plain_runs or args.runs
            with plain_numbers(precision):
                row = measure(work, made, one_by_one if args.chunks else detect, runs=runs, warm_up=min(runs // 2, 3))
            lines.append(line(work, args, sizes, made[0], row, "plain", precision))
        if args.path != "plain":
            work.model.use_precision(precision.name, use_graphs=not args.no_graphs)
            row = measure(work, made, detect, runs=args.runs, warm_up=args.warm_up)
            work.model.use_precision(None)
            lines.append(line(work, args, sizes, made[0], row, "accelerated", precision))
    return lines


@contextlib.contextmanager
def plain_numbers(precision: Precision) -> Iterator[None]:
    """The precision as PyTorch's own switches set it."""
    with float32_products(precision), torch.autocast("cuda", precision.dtype, enabled=precision.is_half):
        yield


def line(
    work: Workload, args: argparse.Namespace, sizes: Sequence, job: Job, row: Row, path: str, precision: Precision
) -> str:
    pixels = sum(height * width for height, width in sizes) / len(sizes)
    texts = len(job.prompts) / len(sizes)
    gflop = glip_t_gflop(
        pixels,
        job.load.shape[-1],
        texts_per_image=texts,
        text_encoded=len({prompt.caption for prompt in job.prompts}) / len(sizes),
    )
    with float32_products(precision):
        rate = measure_tflop_per_s(precision)
    floor = f"{gflop / rate:.2f}" if "Swin_T" in work.name else "-"
    shown = "mixed" if len(set(sizes)) > 1 else "x".join(map(str, sizes[0]))
    shown += f", {len(job.prompts)} prompts" if args.chunks else ""
    times = [1e3 * s / len(sizes) for s in row.timing[:3]]
    return (
        f"| {work.name} | {shown} | {len(sizes)} | {precision.name} | {path} "
        f"| {times[0]:.2f} ({times[1]:.2f} - {times[2]:.2f}) of {row.timing.runs} | {floor} | {row.boxes:.0f} "
        f"| {row.memory:.2f} | {row.first_s:.1f} |"
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    workload.add_model_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"),
        help="of the pictures; default 800 1344. Given several times: a batch of these sizes",
    )  # fmt: skip
    parser.add_argument("--precision", choices=PRECISION_NAMES, default=DEFAULT_PRECISION, help="default: %(default)s")
    parser.add_argument("--chunks", action="store_true", help="1203 classes in 31 prompts for each picture")
    parser.add_argument("--path", choices=("both", "plain", "accelerated"), default="both", help="default: %(default)s")
    parser.add_argument("--no-graphs", action="store_true", help="without CUDA graphs")
    parser.add_argument("--runs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--plain-runs", type=int, help="runs of the plain path, by default as many")
    parser.add_argument("--warm-up", type=int, default=5, help="default: %(default)s")
    args = parser.parse_args(argv)
    args.size = args.size or [[800, 1344]]
    return args


def main() -> int:
    args = parse()
    sys.stdout.write(f"{machine(torch.device('cuda'))}\n\n{HEADER}\n")
    for text in rows(args, build(args)):
        sys.stdout.write(f"{text} {' '.join(sys.argv[1:])} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
