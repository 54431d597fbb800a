"""Every GPU row of the performance table in one run: python benchmarks/gpu.py [--output FILE] [--only NAME ...]

The same measurements as `inference.py` and `operators.py` make one by one; each line of a part names its command.
"""

import argparse
import gc
import sys
from pathlib import Path

import inference
import operators
import torch
import workload
from measure import ROOT, machine

SHAPES = ((640, 480), (800, 1066), (1333, 800))
MIXED = (800, 1344, 640, 1066, 800, 800, 512, 704, 1066, 800, 800, 1216, 608, 608, 736, 992)  # eight (height, width)
GLIP_A, GLIP_L = (str(workload.CONFIGS / f"{name}.yaml") for name in ("glip_A_Swin_T_O365", "glip_Swin_L"))

PARTS = {
    "GLIP-T": [
        *(["--batch-size", "8", "--precision", precision] for precision in ("fp16", "bf16", "tf32", "fp32")),
        *(["--batch-size", "1", "--precision", precision] for precision in ("fp16", "fp32")),
        ["--chunks", "--precision", "fp16", "--plain-runs", "3"],
    ],
    "other shapes": [
        *(["--batch-size", batch, "--size", *map(str, size)] for size in SHAPES for batch in ("1", "8")),
        ["--size", "800", "1344", "--size", "608", "800"],
        sum((["--size", *map(str, MIXED[i : i + 2])] for i in range(0, len(MIXED), 2)), []),
    ],
    "GLIP-T(A)": [
        *(["--config-file", GLIP_A, "--batch-size", batch] for batch in ("1", "8")),
        ["--config-file", GLIP_A, "--chunks", "--plain-runs", "3"],
    ],
    "GLIP-L": [["--config-file", GLIP_L, "--batch-size", batch] for batch in ("1", "8")],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--only", nargs="+", choices=["operators", *PARTS], help="these parts; default: all")
    args = parser.parse_args()
    lines = [machine(torch.device("cuda"))]

    def show(*added: str) -> None:
        lines.extend(added)
        sys.stdout.write("\n".join(added) + "\n")
        sys.stdout.flush()
        if args.output:
            args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

    show()
    if args.only is None or "operators" in args.only:
        show("", "## Operators: python benchmarks/operators.py", "", operators.HEADER)
        for rows in operators.PARTS:
            show(*rows(20))
    for name, commands in PARTS.items():
        if args.only is not None and name not in args.only:
            continue
        show("", f"## {name}: python benchmarks/inference.py", "", inference.HEADER)
        work = None
        for command in commands:
            settings = inference.parse(command)
            work = work or inference.build(settings)
            short = " ".join(command).replace(f"{ROOT}/", "")
            show(*(f"{line} {short} |" for line in inference.rows(settings, work)))
        del work
        gc.collect()
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
