"""Turn a checkpoint of a training run into a model folder that `glip predict --model DIR` takes.

    python tools/export_model.py --checkpoint OUTPUT/model_final.pth --config-file CONFIG --out DIR [--key model_ema]

The folder holds the configuration (config.yaml), the weights (model.safetensors, 16-bit unless --dtype float32) and,
where the text encoder is a local folder, that folder with its vocabulary.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.cli.console import Parser, report_errors
from maskrcnn_benchmark.engine.export import DTYPES, export_model


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="tools/export_model.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FILE", help="of the training run")
    parser.add_argument("--config-file", required=True, type=Path, metavar="FILE", help="of the model")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to fill")
    parser.add_argument(
        "--key", help="entry of the checkpoint: model or model_ema (default: model_ema where there is one)"
    )
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float16", help="of the weights (default: %(default)s)"
    )
    parser.add_argument("--no-vocabulary", action="store_true", help="leave the text encoder's folder out")
    args = parser.parse_args(argv)
    exported = export_model(
        args.checkpoint,
        args.config_file,
        args.out,
        key=args.key,
        dtype=args.dtype,
        with_vocabulary=not args.no_vocabulary,
    )
    print(f"{exported.path}: {exported.size} bytes, entry {exported.key}, {exported.tensors} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
