"""What a finished training says at its end: how accurate the model is and how fast it was trained."""

import json
import logging
import math
import os
from pathlib import Path

from maskrcnn_benchmark.engine.training.validation import Validation
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import write_complete

REPORT_FILE = "training_report.json"

logger = logging.getLogger("maskrcnn_benchmark.trainer")


def forget_report(folder: str | os.PathLike[str]) -> None:
    """Removes the report of an earlier training in the folder of a run, on the main process."""
    if folder and comm.is_main_process():
        Path(folder, REPORT_FILE).unlink(missing_ok=True)


def report_training(images_per_s: float, validation: Validation | None, folder: str | os.PathLike[str] = "") -> None:
    """Logs accuracy and throughput and writes them to `folder`/training_report.json, on the main process.

    Args:
        images_per_s: of all processes together, validation and checkpoints left out; NaN where nothing was trained.
        validation: None if the configuration asks for none; otherwise its figures are of the last weights.
        folder: of the run; nothing is written without one.
    """
    if not comm.is_main_process():
        return
    figures = validation.figures if validation is not None else {}
    accuracy = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    if validation is not None and figures:
        accuracy += f"; best {validation.best:.4f}"
    logger.info("Accuracy: %s", accuracy or "not measured (TEST.DURING_TRAINING False)")
    logger.info("Throughput: %.4f images/s on %d process(es)", images_per_s, comm.get_world_size())
    if not folder:
        return
    content = {
        "accuracy": figures or None,
        "best": validation.best if figures and validation is not None else None,
        "history": [] if validation is None else [[iteration, measured] for iteration, measured in validation.history],
        "images_per_s": None if math.isnan(images_per_s) else images_per_s,
        "processes": comm.get_world_size(),
    }
    write_complete(Path(folder, REPORT_FILE), json.dumps(content, indent=2) + "\n")
