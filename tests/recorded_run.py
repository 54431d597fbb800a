"""A training run that writes down every loss, and may be killed at an iteration: python recorded_run.py [arguments]."""

import os
import signal
import sys

import torch
from toy_run import MeanModel, load_tool

from maskrcnn_benchmark.engine.training import training_run
from maskrcnn_benchmark.modeling.detector import build_detection_model


class Recorded(torch.nn.Module):
    """Appends the losses of every iteration and a sum over its pictures, exactly, to a file; may kill its process."""

    def __init__(self, model: torch.nn.Module, record: str, killed_at: int):
        super().__init__()
        self.model, self.record, self.killed_at, self.calls = model, record, killed_at, 0

    def forward(self, images, *args, **kwargs):
        losses = self.model(images, *args, **kwargs)
        numbers = [images.tensors.double().sum(), *losses.values()]
        with open(self.record, "a") as file:
            file.write(" ".join(number.item().hex() for number in numbers) + "\n")
        self.calls += 1
        if self.calls == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses


def train(kind: str, out: str, killed_at: int, *arguments: str) -> None:
    """Runs the training tool with a "toy" or the "detector"; the losses go to losses.txt in the folder `out`."""
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)
    record = f"{out}/losses.txt"
    training_run.build_detection_model = lambda cfg: Recorded(
        MeanModel() if kind == "toy" else build_detection_model(cfg), record, killed_at
    )
    assert load_tool().main(["--override_output_dir", out, *arguments]) == 0


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
