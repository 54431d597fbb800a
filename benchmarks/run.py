"""The speed table of this machine. python benchmarks/run.py [--output benchmarks/results/FILE.md]

Without a GPU: the embedded model on a 640x480 picture, the command `glip predict` as a whole, and one GLIP-T forward.
With one: GLIP-T at 800x1344, batch 1 and 8, in float32 and bfloat16, as well.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import detector
import torch
from measure import machine, time_runs

from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.scenes import generate_scene

PROMPT = "red star. blue cup. green tree. yellow circle"


def embedded_model(runs: int = 20) -> str:
    """Lines on the embedded model: prediction on a loaded model, and the whole command."""
    device = torch.device("cpu")
    picture, _ = generate_scene(0, "val")
    model = Detector.from_pretrained("glip_nano", device="cpu")
    timing = time_runs(lambda: model.predict(picture, PROMPT), device, runs=runs)
    with tempfile.TemporaryDirectory() as folder:
        picture.save(Path(folder) / "scene.png")
        command = [sys.executable, "-m", "maskrcnn_benchmark.cli.main", "predict", "--image", f"{folder}/scene.png"]
        command += ["--text", PROMPT, "--device", "cpu", "--output", f"{folder}/out"]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    return (
        f"| what | median s | fastest - slowest s | runs |\n|---|---|---|---|\n"
        f"| glip_nano, {picture.width}x{picture.height}, model loaded, CPU | {timing.median_s:.3f} "
        f"| {timing.fastest_s:.3f} - {timing.slowest_s:.3f} | {timing.runs} |\n"
        f"| `glip predict`, whole command, CPU | {median(seconds):.2f} "
        f"| {min(seconds):.2f} - {max(seconds):.2f} | {len(seconds)} |\n"
    )


def full_size() -> str:
    """The rows of GLIP-T on the CPU and, where there is one, on the GPU."""
    settings = [["--device", "cpu", "--size", "800", "1088", "--runs", "5", "--warm-up", "1"]]
    if torch.cuda.is_available():
        settings += [
            ["--device", "cuda", "--batch-size", batch, "--dtype", dtype]
            for dtype in ("float32", "bfloat16")
            for batch in ("1", "8")
        ]
    rows = [f"{detector.row(detector.parse(arguments))}\n" for arguments in settings]
    return f"{detector.HEADER}\n{''.join(rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    machines = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    text = "".join(f"{device.type}: {machine(device)}\n\n" for device in machines)
    text += f"## Embedded model\n\n{embedded_model()}\n## Full-size models, COCO prompt\n\n{full_size()}"
    sys.stdout.write(text)
    if args.output:
        args.output.write_text(f"# Speed\n\n`python benchmarks/run.py`\n\n{text}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
