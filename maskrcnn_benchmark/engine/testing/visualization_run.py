"""Pictures of test sets with what a model finds on them, without evaluating it."""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.build import dataset_names, make_data_loader
from maskrcnn_benchmark.engine.inference import find_predictions, plain_dataset
from maskrcnn_benchmark.engine.launch import process_group
from maskrcnn_benchmark.engine.testing.evaluation_run import model_configuration, task_configurations
from maskrcnn_benchmark.engine.testing.prediction_store import PredictionStore
from maskrcnn_benchmark.engine.testing.result_pictures import draw_item, save_picture
from maskrcnn_benchmark.engine.testing.task_model import TaskModel
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.visualization.draw import Style

logger = logging.getLogger("maskrcnn_benchmark.inference")


def run(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Draws as the arguments say (see `evaluation_arguments.add_drawing_arguments`); returns the exit code."""
    cfg, weight, _ = model_configuration(args, opts)
    tasks = task_configurations(cfg, args.task_config, opts)
    indices = picture_numbers(args.image_index)
    with process_group(cfg.MODEL.DEVICE, args.local_rank) as device:
        setup_logger("maskrcnn_benchmark", "")
        model = TaskModel(cfg, weight, device, args.precision)
        for task in tasks:
            folder = Path(args.vis_dir, task.name if len(tasks) > 1 else "")
            for path in visualize(task.cfg, model.for_task(task.cfg), device, indices, folder, args):
                logger.info("wrote %s", path)
    return 0


def picture_numbers(text: str) -> list[int]:
    """The numbers of "3" or "0,2,5-7". Raises: ValueError for anything else, and for a range from high to low."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or int(last or first) < int(first):
            raise ValueError(f"--image_index {text!r}: give numbers such as 3 or 0,2,5-7")
        numbers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(numbers))


def visualize(
    cfg: CfgNode,
    model: nn.Module,
    device: torch.device,
    indices: Sequence[int],
    folder: Path,
    style: argparse.Namespace,
) -> list[Path]:
    """Draws what a model finds on some pictures of the first test set of a configuration.

    Args:
        indices: of the test set; folder: gets tmpINDEX.jpg for each.
        style: `threshold`, `box_pixel` (width of lines) and `text_size` (factor on the letters).
    Raises: ValueError for an index that the test set does not have.
    """
    name = dataset_names(cfg, is_train=False)[0]
    loader = make_data_loader(cfg, is_train=False)[0]
    dataset, sampler = plain_dataset(loader), loader.batch_sampler
    wrong = [index for index in indices if index >= len(dataset)]
    if wrong:
        raise ValueError(f"picture {wrong[0]} of test set {name}: it has {len(dataset)}, counted from 0")
    sampler.leave_out(set(sampler.items) - set(indices))
    paths = []
    with tempfile.TemporaryDirectory(prefix="glip-") as temporary, closing(PredictionStore(temporary)) as store:
        find_predictions(model, loader, store, cfg, device, name)
        folder.mkdir(parents=True, exist_ok=True)
        for index in indices:
            found = store[index]
            size = dataset.get_img_info(index)
            letters = round(Style.for_size(int(size["width"]), int(size["height"])).font_size * style.text_size)
            picture = draw_item(
                dataset, index, found, threshold=style.threshold, line_width=style.box_pixel, font_size=max(letters, 6)
            )
            paths.append(folder / f"tmp{index}.jpg")
            save_picture(picture, paths[-1])
    return paths
