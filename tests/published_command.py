"""Commands of the notes and of README, run as written but for paths, sizes, the device and the number of processes."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import torch
from tiny_detector import REPOSITORY, TINY, make_text_folder, tiny_config

from maskrcnn_benchmark.modeling.detector import build_detection_model


class Setting:
    """A data root `folder` (DATASET), small sizes, and the weights `weight` of a model of that size.

    Args:
        base: name of the configuration in configs/pretrain.
        weight_name: file of the weights in the folder.
        options: KEY VALUE pairs for every command.
    """

    def __init__(self, folder: Path, base: str, weight_name: str = "glip_a_tiny_o365.pth", options: tuple = ()):
        self.folder = folder
        text = make_text_folder(folder / "text")
        language = "MODEL.LANGUAGE_BACKBONE"
        self.sizes = [str(value) for value in TINY] + [
            f"{language}.MODEL_TYPE", str(text), f"{language}.TOKENIZER_TYPE", str(text),
            "OUTPUT_DIR", str(folder / "out"), "DATALOADER.NUM_WORKERS", "0", "SOLVER.MODEL_EMA", "0.0",
            "INPUT.MIN_SIZE_TRAIN", "64", "AUGMENT.MULT_MIN_SIZE_TRAIN", "(64,)", *map(str, options),
        ]  # fmt: skip
        self.weight = folder / weight_name
        self.weight.parent.mkdir(exist_ok=True)
        torch.manual_seed(0)
        self.start = build_detection_model(tiny_config(text, base=base)).state_dict()
        torch.save({"model": self.start}, self.weight)

    def run_program(
        self, command: str, cwd: Path = REPOSITORY, exit_code: int = 0, program: str = sys.executable, **values
    ) -> str:
        """What the command, arguments of `program`, prints, with `values` in its places."""
        arguments = shlex.split(command.format(weight=self.weight, **values)) + self.sizes
        environment = {**os.environ, "DATASET": str(self.folder), "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            [program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
        )
        assert finished.returncode == exit_code, finished.stderr[-3000:]
        return finished.stdout + finished.stderr


_KEPT_PORTS: list[socket.socket] = []


def free_port() -> int:
    """A port for a program to listen on, which until the end of the tests the system gives to nobody that asks for any.

    A program that allows the reuse of addresses, as torchrun does, may listen there beside the socket that keeps it.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    _KEPT_PORTS.append(keeper)
    return keeper.getsockname()[1]
