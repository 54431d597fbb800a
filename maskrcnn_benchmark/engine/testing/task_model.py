"""One network for several tasks: what a task's configuration says about the model takes effect."""

import logging
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.config import CfgNode, try_to_find
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.language_backbone.knowledge import Knowledge
from maskrcnn_benchmark.modeling.rpn.inference import make_atss_postprocessor
from maskrcnn_benchmark.utils.checkpoint import DetectronCheckpointer

UNUSED = ("NUM_CLASSES", "WEIGHT", "DEVICE")  # classes come from prompts; files hold placeholders for their number
OF_SELECTION = ("ATSS.INFERENCE_TH", "ATSS.PRE_NMS_TOP_N", "ATSS.NMS_TH", "ATSS.DETECTIONS_PER_IMG", "DYHEAD.SCORE_AGG")
OTHER_HEADS = ("RETINANET.", "FCOS.", "ROI_HEADS.", "ROI_BOX_HEAD.", "ROI_MASK_HEAD.", "ROI_KEYPOINT_HEAD.")

logger = logging.getLogger(__name__)


class TaskModel:
    """The network of a command, adapted to the configuration of each task.

    Args:
        cfg: of the model; `load` builds from it.
        weight: checkpoint or published name; None takes MODEL.WEIGHT, or the last checkpoint of OUTPUT_DIR.
        precision: of inference on a GPU.
    """

    def __init__(self, cfg: CfgNode, weight: str | None, device: torch.device, precision: str | None):
        self.cfg, self.weight, self.device, self.precision = cfg, weight, device, precision
        self.model = self._build(cfg)

    def for_task(self, cfg: CfgNode) -> torch.nn.Module:
        """The network as the task's configuration describes it; built anew only where its layers differ."""
        if _needs_new_layers(self.cfg, cfg):
            logger.info("The task's configuration describes another network: building it")
            self.model = self._build(cfg)
        elif isinstance(self.model, GeneralizedVLRCNN):
            if _selection(self.cfg) != _selection(cfg):
                coder = self.model.rpn.box_selector_test.box_coder
                self.model.rpn.box_selector_test = make_atss_postprocessor(cfg, coder)
                self.model.use_precision(self.precision)  # recordings hold the old selection
            self.model.knowledge = Knowledge.from_config(cfg)
        self.cfg = cfg
        return self.model

    def _build(self, cfg: CfgNode) -> torch.nn.Module:
        last = last_checkpoint(cfg)
        if self.weight or cfg.MODEL.WEIGHT and not last:
            model = load_model(cfg, find_weight(self.weight or cfg.MODEL.WEIGHT), self.device)
        else:
            if not last:
                logger.warning(
                    "The weights are random: give --weight or MODEL.WEIGHT, or the OUTPUT_DIR of a training run"
                )
            model = build_detection_model(cfg)
            DetectronCheckpointer(cfg, model, save_dir=cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHT, skip_optimizer=True)
            model = model.to(self.device).eval()
        return model.use_precision(self.precision) if isinstance(model, GeneralizedVLRCNN) else model


def last_checkpoint(cfg: CfgNode) -> str:
    """The newest checkpoint of OUTPUT_DIR, which goes before MODEL.WEIGHT; "" if there is none."""
    return DetectronCheckpointer(cfg, None, save_dir=cfg.OUTPUT_DIR).get_checkpoint_file()


def find_weight(weight: str) -> str:
    """A file in the search path, else the text itself, which may be a published name."""
    try:
        return try_to_find(weight)
    except FileNotFoundError:
        return weight


def weight_name(weight: str) -> str:
    """What the folder of the results of a checkpoint is called."""
    return Path(weight).stem


def _needs_new_layers(built: CfgNode, wanted: CfgNode) -> bool:
    before, after = _layers(built), _layers(wanted)
    return any(before.get(name) != after.get(name) for name in before.keys() | after.keys())


def _selection(cfg: CfgNode) -> list[Any]:
    """What decides which boxes of the head's output are kept."""
    return [cfg.TEST.USE_MULTISCALE, *(_value(cfg.MODEL, name) for name in OF_SELECTION)]


def _layers(cfg: CfgNode) -> dict[str, Any]:
    """The keys by which a network is built, beside those that can be changed later."""
    names = [
        name
        for name in cfg.MODEL.keys_of_leaves()
        if name.rsplit(".", 1)[-1] not in UNUSED and name not in OF_SELECTION and not name.startswith(OTHER_HEADS)
    ]
    return {"ONE_HOT": cfg.DATASETS.ONE_HOT} | {name: _value(cfg.MODEL, name) for name in names}


def _value(node: CfgNode, name: str) -> Any:
    for part in name.split("."):
        node = node[part]
    return tuple(node) if isinstance(node, list) else node
