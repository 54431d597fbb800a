"""Speed and memory of the data side, on the CPU. python benchmarks/data.py [--only PART ...] [--output FILE]

caption: one core's time for a training text over 1,203 classes: caption, tokens, maps of 20 boxes.
loader: pictures per second of the training loader of GLIP-T (640x480 JPEG files made here), and the time of its parts.
memory: time and host memory of a set of Objects365's size (600,000 pictures, 10 million boxes, a file of 1.8 GB).
"""

import argparse
import io
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import ROOT, Timing, machine, show
from PIL import Image
from tqdm import tqdm

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.collate_batch import batch_images
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask
from maskrcnn_benchmark.data.grounding.od_to_grounding import SampledPrompt
from maskrcnn_benchmark.data.transforms import Normalize, ToTensor, build_transforms
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

GOLDEN = ROOT / "tests" / "golden"
GLIP_T = ROOT / "configs" / "pretrain" / "glip_Swin_T_O365_GoldG.yaml"
CPU = torch.device("cpu")
CLASSES, BOXES = 1203, 20
SIZE = (640, 480)
FILES = 64
BATCH_SIZE = 8


def class_names(count: int, seed: int = 0) -> list[str]:
    """Names of one to three words of BERT's vocabulary."""
    vocabulary = (GOLDEN / "bert" / "vocab.txt").read_text(encoding="utf-8").split()
    words = [word for word in vocabulary if word.isalpha() and len(word) > 4]
    draw = random.Random(seed)
    return ["_".join(draw.sample(words, draw.choice((1, 1, 2, 3)))) for _ in range(count)]


def boxes(seed: int) -> BoxList:
    """20 boxes of as many classes or a few less."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(BOXES, 2, generator=draw) * 300
    target = BoxList(torch.cat([corners, corners + 10 + torch.rand(BOXES, 2, generator=draw) * 150], dim=1), SIZE)
    target.add_field("labels", torch.randint(1, CLASSES + 1, (BOXES,), generator=draw))
    return target


def caption_rows(runs: int) -> Iterator[str]:
    """The time of a text, and of its parts."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(GOLDEN / "bert")
    names = dict(enumerate(class_names(CLASSES), start=1))
    prompt = SampledPrompt(names, tokenizer, random_sample_negative=85, separation=". ")
    prepare = ConvertCocoPolysToMask(return_tokens=True, tokenizer=tokenizer)
    picture, targets = Image.new("RGB", SIZE), itertools.cycle([boxes(seed) for seed in range(50)])

    def caption():
        return prompt(next(targets), 1)[1]

    def whole():
        grounded = caption()
        described = {"image_id": 1, "annotations": grounded.annotations, "caption": grounded.caption}
        described["greenlight_span_for_masked_lm_objective"] = grounded.greenlight_spans
        return prepare(picture, {**described, "label_to_positions": grounded.label_to_positions}, box_format="xyxy")

    random.seed(0)
    np.random.seed(0)
    text = caption().caption
    yield "| text over 1,203 classes, 20 boxes | processor ms: median (fastest - slowest) of runs |"
    yield "|---|---|"
    for name, function in (
        ("caption, tokens and maps", whole),
        ("of it: caption", caption),
        (f"of it: tokenizer ({len(tokenizer(text)['input_ids'])} tokens)", lambda: tokenizer(text)),
    ):
        yield f"| {name} | {milliseconds(processor_time(function, max(runs, 20)))} |"


def processor_time(function: Callable[[], object], runs: int) -> Timing:
    """Seconds of one core, whatever else the machine does."""
    seconds = []
    for _ in range(runs + 10):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    seconds = seconds[10:]  # warm
    return Timing(median(seconds), min(seconds), max(seconds), runs)


def milliseconds(timing: Timing, per: int = 1) -> str:
    """A cell of a table."""
    median_ms, fastest_ms, slowest_ms = (1000 * seconds / per for seconds in timing[:3])
    return f"{median_ms:.2f} ({fastest_ms:.2f} - {slowest_ms:.2f}) of {timing.runs}"


def write_pictures(folder: Path) -> None:
    """640x480 JPEG files of quality 90, of different content."""
    base = np.array(Image.open(GOLDEN / "img_a.png").convert("RGB").resize(SIZE, Image.Resampling.BICUBIC))
    draw = np.random.default_rng(0)
    for number in range(FILES):
        noise = draw.normal(0, 6, base.shape)
        pixels = np.roll(base, draw.integers(0, 400, 2), (0, 1)) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def write_annotations(path: Path, num_images: int, num_boxes: int, num_classes: int) -> None:
    """A COCO-style file with the keys of Objects365; the boxes of a picture are spread over the file."""
    draw = random.Random(0)
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names(num_classes), start=1)]
    with path.open("w") as file:
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [')
        for i in range(num_images):
            record = {"id": i + 1, "file_name": f"{i % FILES}.jpg", "height": SIZE[1], "width": SIZE[0], "license": 1}
            file.write((", " if i else "") + json.dumps(record))
        file.write('], "annotations": [')
        for k in tqdm(range(num_boxes), unit="box", disable=None, leave=False):
            x, y, width, height = draw.random() * 500, draw.random() * 380, *(10 + draw.random() * 90 for _ in "wh")
            image = k % num_images + 1 if k < num_images else draw.randrange(num_images) + 1
            file.write(
                f'{", " if k else ""}{{"id": {k + 1}, "iscrowd": 0, "isfake": 0, "area": {width * height:.6f}, '
                f'"isreflected": 0, "bbox": [{x:.6f}, {y:.6f}, {width:.6f}, {height:.6f}], "image_id": {image}, '
                f'"category_id": {draw.randrange(num_classes) + 1}}}'
            )
        file.write("]}")


def configuration(folder: Path, workers: int, iterations: int) -> CfgNode:
    """GLIP-T's training on the files in a folder."""
    cfg = default_config()
    cfg.merge_from_file(str(GLIP_T))
    cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = str(GOLDEN / "bert")
    entry = {"type": "dt_json", "img_dir": str(folder), "ann_file": str(folder / "annotations.json")}
    cfg.DATASETS.REGISTER.made = CfgNode(entry)
    cfg.DATASETS.TRAIN = ("made",)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 0, iterations, BATCH_SIZE
    return cfg


def loader_rows(workers: list[int], runs: int) -> Iterator[str]:
    """Pictures per second for numbers of workers, then the time of the parts on one core."""
    yield "| workers | pictures / s | arriving every ms |"
    yield "|---|---|---|"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder)
        write_annotations(folder / "annotations.json", 10 * FILES, 200 * FILES, 365)
        for count in workers:
            warm_up = 2 * max(count, 1) + 1
            batches = iter(make_data_loader(configuration(folder, count, warm_up + runs)))
            for _ in range(warm_up):
                next(batches)
            start = time.perf_counter()
            pictures = sum(len(batch[1]) for batch in batches)
            seconds = time.perf_counter() - start
            yield f"| {count} | {pictures / seconds:.1f} | {1000 * seconds / pictures:.1f} |"
        yield ""
        yield from part_rows(configuration(folder, 0, 1), folder / "0.jpg")


def part_rows(cfg: CfgNode, path: Path) -> Iterator[str]:
    """What one core does for a picture at 800x1066."""
    torch.set_num_threads(1)
    data = path.read_bytes()
    resize, flip, *_ = build_transforms(cfg, is_train=False).transforms
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    large, _ = resize(picture)
    tensor, _ = ToTensor()(large)
    normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, "bgr255")
    parts = {
        f"decode {SIZE[0]}x{SIZE[1]} ({len(data) // 1024} KiB)": lambda: Image.open(io.BytesIO(data)).convert("RGB"),
        f"resize to {large.width}x{large.height}": lambda: resize(picture),
        "to a tensor": lambda: ToTensor()(large),
        "normalise": lambda: normalize(tensor),
        f"into a batch of {BATCH_SIZE}": lambda: batch_images([tensor] * BATCH_SIZE, cfg.DATALOADER.SIZE_DIVISIBILITY),
    }
    yield "| part | processor ms per picture: median (fastest - slowest) of runs |"
    yield "|---|---|"
    for name, function in parts.items():
        per = BATCH_SIZE if "batch" in name else 1
        yield f"| {name} | {milliseconds(processor_time(function, 20), per)} |"


def proportional_memory() -> int:
    """Bytes of this process and those that it started, what several share counted once, without shared pictures."""
    own, total = str(os.getpid()), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if own not in (parent, folder.name):
                continue
            sizes = dict(line.split()[:2] for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        except OSError:
            continue  # it has ended
        total += 1024 * (int(sizes["Pss:"]) - int(sizes["Pss_Shmem:"]))
    return total


def memory_rows(num_images: int, num_boxes: int, workers: int) -> Iterator[str]:
    """Time until a loader of the set exists, and memory without and with workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder)
        write_annotations(folder / "annotations.json", num_images, num_boxes, 365)
        cfg = configuration(folder, workers, 1000)
        before, start, start_cpu = proportional_memory(), time.perf_counter(), time.process_time()
        loader = make_data_loader(cfg)
        load_s, cpu_s, loaded = time.perf_counter() - start, time.process_time() - start_cpu, proportional_memory()
        batches = iter(loader)
        seen = [proportional_memory() for _ in itertools.islice(batches, 4 * workers + 1)]
        del batches
    gib = [f"{value / 2**30:.2f}" for value in (before, loaded, median(seen))]
    yield "| pictures | boxes | load s (CPU s) | GiB before | GiB loaded | workers | GiB with workers |"
    yield "|---|---|---|---|---|---|---|"
    seconds = f"{load_s:.1f} ({cpu_s:.1f})"
    yield f"| {num_images:,} | {num_boxes:,} | {seconds} | {gib[0]} | {gib[1]} | {workers} | {gib[2]} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("caption", "loader", "memory"), help="these parts; default: all")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16], help="of the loader; default: %(default)s"
    )
    parser.add_argument(
        "--memory-workers", type=int, default=16, help="of the loader of the large set; default: %(default)s"
    )
    parser.add_argument("--images", type=int, default=600_000, help="of the large set; default: %(default)s")
    parser.add_argument("--boxes", type=int, default=10_000_000, help="default: %(default)s")
    parser.add_argument(
        "--runs", type=int, default=40, help="texts (20 or more), and batches of the loader; default: %(default)s"
    )
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    args = parser.parse_args()
    parts = {
        "caption": lambda: caption_rows(args.runs),
        "loader": lambda: loader_rows(args.workers, args.runs),
        "memory": lambda: memory_rows(args.images, args.boxes, args.memory_workers),
    }
    wanted = {name: part for name, part in parts.items() if args.only is None or name in args.only}
    tables = (itertools.chain(["", f"## Data: {name}", ""], rows()) for name, rows in wanted.items())
    show(itertools.chain([machine(CPU)], *tables), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
