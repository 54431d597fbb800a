"""A whole evaluation, from JPEG files on disk to AP, beside the model alone: python benchmarks/evaluation.py

Files of COCO's sizes and annotations of its 80 classes are made first. The network sees every shape of its inputs three
times before the clock starts. "busy" is the share of the time in which at least one kernel runs, by the profiler of
PyTorch, amid a second run over half of the files; the first run is free of it. Without --model or --weights the
parameters are those of the parity tests, and on a GPU the selection has the load of 100 objects of 12 classes in every
picture (see workload.py), so that AP says nothing.

On a CPU: python benchmarks/evaluation.py --model glip_nano --images 5000 --min-size 64 --workers 1
"""

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import workload
from measure import machine, show, synchronise
from PIL import Image
from torch import nn

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.wrapped_loader import WrappedLoader
from maskrcnn_benchmark.engine.finders import Item, PromptFinder
from maskrcnn_benchmark.engine.inference import make_finder
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.testing import evaluation_run
from maskrcnn_benchmark.engine.testing.evaluation_run import EvaluationOptions, evaluate_task
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.text.queries import prompts_from_dataset
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION, PRECISION_NAMES

SIZES = {  # (width, height): pictures of a hundred
    (640, 480): 45, (640, 427): 22, (480, 640): 12, (427, 640): 6,
    (500, 375): 6, (375, 500): 3, (640, 640): 3, (640, 360): 3,
}  # fmt: skip
BOXES = 7  # of a picture
CLASSES = 12  # of what is found in a picture
WARM_UP_BATCHES = 3  # of every size: computed directly, recorded, replayed
WINDOW = (0.3, 0.75)  # of the batches, where the profiler runs
QUIET_FROM = 200  # pictures, after which memory should stay as it is
TIMES_LOGGER = "maskrcnn_benchmark.engine.inference"


@cache
def _pixels(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    picture = Image.open(workload.GOLDEN / "img_a.png").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 13, (height, width, 3)).astype(np.float32)
    return np.asarray(picture, dtype=np.float32), noise


def write_picture(path: Path, width: int, height: int, seed: int) -> int:
    """A JPEG file of quality 90 with content of its own; returns its bytes."""
    picture, noise = _pixels(width, height)
    shifts = np.random.default_rng(seed).integers(0, min(width, height), 4)
    pixels = np.roll(picture, shifts[:2], (0, 1)) + np.roll(noise, shifts[2:], (0, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path.stat().st_size


def write_set(folder: Path, sizes: Sequence[tuple[int, int]], name: str, processes: int) -> int:
    """Pictures of the sizes and name.json in a folder; returns the bytes of all pictures."""
    (folder / name).mkdir(parents=True)
    paths = [folder / name / f"{number:06d}.jpg" for number in range(len(sizes))]
    widths, heights = zip(*sizes, strict=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        written = sum(pool.map(write_picture, paths, widths, heights, range(len(sizes)), chunksize=16))
    draw = random.Random(0)
    names = workload.coco_names()
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes, start=1):
        images.append({"id": number, "file_name": paths[number - 1].name, "width": width, "height": height})
        for _ in range(BOXES):
            box = [draw.random() * width / 2, draw.random() * height / 2, *(20 + 150 * draw.random() for _ in "wh")]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": draw.randint(1, len(names))}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    categories = [{"id": number, "name": text} for number, text in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return written


class Busy(NamedTuple):
    """Where the profiler ran: seconds, pictures, seconds with a kernel, and number of kernels."""

    seconds: float
    pictures: int
    busy_s: float
    kernels: int


class Profile:
    """The union of the intervals of all kernels between `begin` and `end`, where there is a GPU that tells."""

    def __init__(self, device: torch.device):
        self.device = device
        self._profiler: Any = None
        self._begun = 0.0

    def begin(self) -> None:
        if self.device.type == "cuda":
            self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profiler.start()
        synchronise(self.device)
        self._begun = time.perf_counter()

    def end(self, pictures: int) -> Busy:
        synchronise(self.device)
        ended = time.perf_counter()
        intervals: list[tuple[int, int]] = []
        if self._profiler is not None:
            self._profiler.stop()
            intervals = [
                (event.start_ns(), event.start_ns() + event.duration_ns())
                for event in self._profiler.profiler.kineto_results.events()
                if event.device_type() == torch.autograd.DeviceType.CUDA
                and not event.name().startswith(("Memcpy", "Memset"))
            ]
            self._profiler = None
        return Busy(ended - self._begun, pictures, union_ns(intervals) / 1e9, len(intervals))


def union_ns(intervals: Sequence[tuple[int, int]]) -> int:
    """Length of what the intervals (begin, end) cover together."""
    total, reached = 0, 0
    for begin, end in sorted(intervals):
        total += max(end - max(begin, reached), 0)
        reached = max(reached, end)
    return total


class WatchedLoader(WrappedLoader):
    """A loader that notes when its batches are asked for, keeps one of each shape, and profiles the middle of them.

    Args:
        profile: None to profile nothing.
    """

    def __init__(self, loader: Any, profile: Profile | None):
        super().__init__(loader)
        self.profile = profile
        self.shapes: list[tuple[int, ...]] = []
        self.kept: dict[tuple[int, ...], ImageList] = {}
        self.asked: list[float] = []
        self.pages: dict[int, int] = {}  # pictures so far -> bytes of this process
        self.busy: Busy | None = None

    def __iter__(self) -> Iterator[tuple]:
        first, last = (int(part * len(self.loader.batch_sampler)) for part in WINDOW)
        pictures = begun = 0
        batches = iter(self.loader)
        while True:
            number = len(self.shapes)
            if self.profile is not None and first < last:
                if number == first:
                    self._try(self.profile.begin)
                    begun = pictures
                elif number == last:
                    self.busy = self._try(self.profile.end, pictures - begun)
            self.asked.append(time.perf_counter())
            batch = next(batches, None)
            if batch is None:
                return
            images: ImageList = batch[0]
            shape = tuple(images.tensors.shape)
            self.shapes.append(shape)
            self.kept.setdefault(shape, images)
            pictures += len(images)
            self.pages[pictures] = resident_bytes()
            yield batch

    def _try(self, function, *arguments):
        """What the function returns; a profiler that fails costs its row, not the others."""
        try:
            return function(*arguments)
        except (RuntimeError, AssertionError, AttributeError) as error:
            logging.getLogger(__name__).warning("The profiler fails: %s", error)
            self.profile = None
            return None


def resident_bytes() -> int:
    """Memory of this process without what it shares, where the system tells; else the most that it ever had."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, resident, shared, *_ = map(int, pages.read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def watched(profile: Profile | None) -> Iterator[list[WatchedLoader]]:
    """Lets evaluations of the block use watched loaders, which are put into the list."""
    made: list[WatchedLoader] = []
    make = evaluation_run.make_data_loader

    def make_watched(*args: Any, **kwargs: Any) -> list[WatchedLoader]:
        made.extend(WatchedLoader(loader, profile) for loader in make(*args, **kwargs))
        return made[-1:]

    evaluation_run.make_data_loader = make_watched  # type: ignore[assignment]
    try:
        yield made
    finally:
        evaluation_run.make_data_loader = make


class LastTimes(logging.Handler):
    """Keeps what an evaluation logs about its times."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Per image:"):
            self.text = message


def configuration(args: argparse.Namespace, folder: Path, name: str) -> CfgNode:
    """The evaluation of a set that `write_set` made."""
    cfg = default_config()
    cfg.merge_from_file(str(find_model(args.model).config if args.model else args.config_file))
    language = cfg.MODEL.LANGUAGE_BACKBONE
    if args.model:
        evaluation_run.use_local_text_files(cfg, find_model(args.model).config.parent)
    else:
        language.MODEL_TYPE = language.TOKENIZER_TYPE = args.text_encoder
    entry = {"type": "coco", "img_dir": str(folder / name), "ann_file": str(folder / f"{name}.json")}
    cfg.DATASETS.REGISTER[name] = CfgNode(entry)
    cfg.DATASETS.TEST = (name,)
    cfg.DATALOADER.NUM_WORKERS = args.workers
    cfg.TEST.IMS_PER_BATCH, cfg.TEST.EVAL_TASK, cfg.TEST.REPORT = args.batch_size, "detection", False
    cfg.MODEL.DEVICE = args.device
    if args.min_size:
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = args.min_size, args.min_size * 1333 // 800
    return cfg


def build(args: argparse.Namespace, cfg: CfgNode, device: torch.device) -> nn.Module:
    """The model that the arguments name, in the precision that they name."""
    if args.model:
        model = load_model(cfg, find_model(args.model).weights(), device)
    else:
        work = workload.build(args.config_file, device, weights=args.weights, text_encoder=args.text_encoder)
        model = work.model
    return model.use_precision(args.precision)


def put_objects(model: nn.Module, cfg: CfgNode, dataset: Any, batch_size: int) -> None:
    """Lets accelerated inference find a hundred objects of a few classes in every picture, whatever the weights."""
    accelerated = model.accelerated_form()
    if accelerated is None:
        return
    (prompt,) = prompts_from_dataset(dataset, cfg, model.tokenizer)
    draw, classes = random.Random(0), sorted(prompt.label_to_tokens)
    shown = [draw.sample(classes, CLASSES) for _ in range(batch_size)]
    prompts = [replace(prompt, label_to_tokens={k: prompt.label_to_tokens[k] for k in some}) for some in shown]
    head, loads = accelerated.head, {}

    def loaded(visual, shape, hidden, *more):
        if shape not in loads:  # in the direct call before a recording
            load = workload.selection_load(shape, prompts, hidden.shape[1])
            loads[shape] = load.to(visual.device)
        outputs = head(visual, shape, hidden, *more)
        return outputs._replace(word_logits=loads[shape][: len(hidden)])

    accelerated.head = loaded


def model_alone(find: PromptFinder, watcher: WatchedLoader, device: torch.device) -> float:
    """Pictures per second of every second batch of a run, from normalised pictures on the device to boxes here."""
    collect, pictures, begin = None, 0, 0.0
    for repeat in range(2):  # the first is a warm-up
        shapes = watcher.shapes[: len(watcher.kept)] if repeat == 0 else watcher.shapes[::2]
        synchronise(device)
        pictures, begin = 0, time.perf_counter()
        for shape in shapes:
            images = watcher.kept[shape]
            started = find.start(images, [Item(None, number) for number in range(len(images))])
            if collect is not None:
                collect()
            collect, pictures = started, pictures + len(images)
        if collect is not None:
            collect()
    return pictures / (time.perf_counter() - begin)


def rows(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the report, as soon as they are known."""
    device = torch.device(args.device)
    draw = random.Random(0)
    sizes = draw.choices(list(SIZES), weights=list(SIZES.values()), k=args.images)
    every = [size for size in dict.fromkeys(sizes) for _ in range(WARM_UP_BATCHES * args.batch_size)]
    begin = time.perf_counter()
    write_set(folder, every, "warm_up", args.processes)
    written = write_set(folder, sizes, "pictures", args.processes)
    made_s, begin = time.perf_counter() - begin, time.perf_counter()
    yield f"{args.images:,} JPEG files of {written / args.images / 1000:.0f} kB on average, made in {made_s:.1f} s;"
    cfg, first_cfg = configuration(args, folder, "pictures"), configuration(args, folder, "warm_up")
    model = build(args, cfg, device)
    built_s, begin = time.perf_counter() - begin, time.perf_counter()
    yield f"model built in {built_s:.1f} s;"
    if not (args.model or args.weights):
        (loader,) = evaluation_run.make_data_loader(cfg, is_train=False)
        put_objects(model, cfg, loader.dataset, args.batch_size)
    options = EvaluationOptions(precision=args.precision, has_fixed_weights=True)
    with watched(None) as warm:
        evaluate_task(first_cfg, model, device, None, options)
    warm_s = time.perf_counter() - begin
    yield f"{len(every)} pictures of {len(warm[0].kept)} shapes to warm up in {warm_s:.1f} s."
    times = LastTimes()
    logging.getLogger(TIMES_LOGGER).addHandler(times)
    logging.getLogger(TIMES_LOGGER).setLevel(logging.INFO)
    synchronise(device)
    begin = time.perf_counter()
    with watched(None) as made:
        figures = evaluate_task(cfg, model, device, folder / "results", options)
    whole_s = time.perf_counter() - begin
    (watcher,) = made
    loop_s, start_s = watcher.asked[-1] - watcher.asked[0], watcher.asked[1] - watcher.asked[0]
    rate = (args.images - watcher.shapes[0][0]) / (loop_s - start_s)
    yield ""
    yield "| part | pictures / s | of it |"
    yield "|---|---|---|"
    yield f"| files to AP | {args.images / whole_s:.1f} | {whole_s:.1f} s, AP {figures['pictures']['AP']:.3f} |"
    yield f"| of it, boxes found and kept | {args.images / loop_s:.1f} | {times.text} |"
    yield f"| of it, after the first batch | {rate:.1f} | the first batch came after {start_s:.1f} s |"
    with torch.no_grad():
        alone = model_alone(make_finder(model, watcher.dataset, cfg, "detection"), watcher, device)
    yield f"| model alone, pictures in memory | {alone:.1f} | the files reach {100 * rate / alone:.1f} % of this rate |"
    cfg.TEST.SUBSET = len(watcher.shapes) // 2
    with watched(Profile(device)) as made:
        evaluate_task(cfg, model, device, None, options)
    busy = made[0].busy
    if busy is not None:
        share = f"GPU busy {100 * busy.busy_s / busy.seconds:.1f} %" if busy.kernels else "no kernels were seen"
        seen = f"{share} of {busy.seconds:.1f} s, {busy.kernels:,} kernels"
        yield f"| files again, profiled amid half of them | {busy.pictures / busy.seconds:.1f} | {seen} |"
    later = [size for pictures, size in watcher.pages.items() if pictures >= QUIET_FROM]
    if len(later) > 1:
        growth = [(size - later[0]) / 2**20 for size in later]
        yield ""
        yield f"Memory of the main process from picture {QUIET_FROM}: {min(growth):+.0f} to {max(growth):+.0f} MiB."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    workload.add_model_arguments(parser)
    parser.add_argument("--model", help="instead of the configuration: glip_nano, a published model, or a folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument(
        "--precision", choices=PRECISION_NAMES, default=DEFAULT_PRECISION, help="default: %(default)s; on a CPU fp32"
    )
    parser.add_argument("--images", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--processes", type=int, default=min(os.cpu_count() or 1, 32), help="that make the files; default: %(default)s"
    )
    parser.add_argument(
        "--min-size", type=int, help="shorter side of the network's input; default: the configuration's"
    )
    parser.add_argument("--folder", type=Path, help="of the files, which stay there; default: a temporary one")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    os.environ.setdefault("TEARDOWN_CUPTI", "0")  # CUDA graphs outlive a profile
    precision = "fp32" if torch.device(args.device).type == "cpu" else args.precision
    settings = f"{args.model or Path(args.config_file).stem}, batch {args.batch_size}, {precision}"
    heading = [machine(torch.device(args.device)), "", f"{settings}, {args.workers} workers;"]
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        show(itertools.chain(heading, rows(args, Path(folder))), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
