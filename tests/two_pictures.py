"""Two pictures with captions, and the configuration of the real detector at a size that learns them in seconds."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

from maskrcnn_benchmark.config import CfgNode, default_config

NANO = Path(__file__).parents[1] / "configs" / "scenes" / "glip_nano.yaml"
SIDE = 128
PICTURES = {  # name -> caption, and for each phrase of it colour and box x1, y1, x2, y2
    "first.png": (
        "red cup. blue star",
        {"red cup": ("red", (8, 16, 55, 71)), "blue star": ("blue", (70, 60, 119, 115))},
    ),
    "second.png": (
        "a green cup above a red star",
        {"a green cup": ("green", (60, 4, 115, 55)), "a red star": ("red", (30, 64, 85, 121))},
    ),
}
TINY = """
    MODEL.DEVICE cpu MODEL.SWINT.EMBED_DIM 16 MODEL.SWINT.DEPTHS (1,1,1,1) MODEL.SWINT.NUM_HEADS (1,2,4,8)
    MODEL.SWINT.WINDOW_SIZE 4 MODEL.SWINT.OUT_CHANNELS (16,32,64,128) MODEL.BACKBONE.OUT_CHANNELS 32
    MODEL.DYHEAD.CHANNELS 32 MODEL.DYHEAD.NUM_CONVS 1 MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_SIZE 32
    MODEL.DYHEAD.FUSE_CONFIG.FUSE_EMBED_DIM 32 MODEL.DYHEAD.FUSE_CONFIG.FUSE_NUM_HEADS 2
    INPUT.MIN_SIZE_TRAIN 128 INPUT.MIN_SIZE_TEST 128 AUGMENT.FLIP_PROB_TRAIN 0.0 DATALOADER.NUM_WORKERS 0
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 240 SOLVER.WARMUP_ITERS 20 SOLVER.BASE_LR 0.001 SOLVER.LANG_LR 0.001
    SOLVER.USE_AMP False SOLVER.MODEL_EMA 0.0 TEST.IMS_PER_BATCH 2 TEST.EVAL_TASK grounding
"""


def write_pictures(folder: Path) -> Path:
    images, annotations = [], []
    for number, (name, (caption, phrases)) in enumerate(PICTURES.items(), start=1):
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        spans = []
        for phrase, (colour, box) in phrases.items():
            ImageDraw.Draw(picture).rectangle(box, fill=colour)
            begin = caption.index(phrase)
            spans.append([[begin, begin + len(phrase)]])
            x1, y1, x2, y2 = box
            width, height = x2 - x1 + 1, y2 - y1 + 1
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x1, y1, width, height],
                 "area": width * height, "iscrowd": 0, "tokens_positive": spans[-1]}
            )  # fmt: skip
        picture.save(folder / name)
        images.append(
            {"id": number, "file_name": name, "width": SIDE, "height": SIDE, "caption": caption,
             "tokens_positive_eval": spans}
        )  # fmt: skip
    path = folder / "grounding.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]})
    )
    return path


def two_pictures_config(folder: Path) -> CfgNode:
    """Writes the pictures to `folder`; trains and tests on them, with output in `folder`/out."""
    node = default_config()
    node.merge_from_file(str(NANO))
    node.merge_from_list(TINY.split())
    entry = {"type": "modulated", "img_dir": str(folder), "ann_file": str(write_pictures(folder))}
    node.DATASETS.REGISTER = CfgNode({"toy": CfgNode(entry)})
    node.DATASETS.TRAIN = node.DATASETS.TEST = ("toy",)
    node.OUTPUT_DIR = str(folder / "out")
    return node
