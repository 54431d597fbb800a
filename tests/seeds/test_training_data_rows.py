"""What a training set is built with, and the targets it gives, as the notes print them (rows 73 and 77)."""

import json
from pathlib import Path

import golden_tools
from PIL import Image
from seeds.conftest import configuration

from maskrcnn_benchmark.data.dataset_options import dataset_options
from maskrcnn_benchmark.data.datasets import CocoGrounding
from maskrcnn_benchmark.data.transforms import Resize
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

PRINTED = {
    "few_shot": 3, "shuffle_seed": 3, "random_sample_negative": 85, "disable_shuffle": True,
    "control_probabilities": (0.0, 0.0, 0.5, 0.0), "separation_tokens": ". ", "caption_min_box": 1, "caption_conf": 0.9,
    "caption_nms": 0.9, "safeguard_positive_caption": True, "no_mask_for_od": False, "no_mask_for_gold": False,
    "mlm_obj_for_only_positive": False, "caption_format_version": "v1", "special_safeguard_for_coco_grounding": False,
    "diver_box_for_vqa": False, "caption_prompt": None, "use_caption_prompt": True,
}  # fmt: skip
FEW_SHOT = ("FEW_SHOT", 3, "SHUFFLE_SEED", 3, "USE_CAPTION_PROMPT", True, "DISABLE_SHUFFLE", True)
UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of COCO's 1 to 90
SIZES = [(423, 640), (423, 640), (481, 640), (427, 640)]  # of COCO pictures, in pixels
SHORTER_SIDES = [640, 800, 800, 800]
PRINTED_SIZES = [(640, 968), (800, 1210), (800, 1064), (800, 1199)]


def test_arguments_of_a_training_set(bert_vocabulary):
    """Row 73: those of few-shot training with configuration C, and the tokenizer."""
    overrides = [f"DATASETS.{word}" if isinstance(word, str) else word for word in FEW_SHOT]
    cfg = configuration("glip_Swin_T_O365_GoldG", bert_vocabulary, *overrides)
    options = dataset_options(cfg, is_train=True)
    assert {name: options[name] for name in PRINTED} == PRINTED
    tokenizer = build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE)
    assert (tokenizer.is_fast, tokenizer.vocab_size, tokenizer.model_max_length) == (True, 30522, 512)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("right", "right")
    special = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    assert special.items() <= tokenizer.special_tokens_map.items() and tokenizer.mask_token == "[MASK]"


def write_annotations(folder: Path) -> Path:
    """Four pictures with three toothbrushes and a cup each, categories as COCO numbers them."""
    ids = [number for number in range(1, 91) if number not in UNUSED_IDS]
    names = json.loads(golden_tools.golden_path("text/tokenization.json").read_text())["coco80"]["categories"].values()
    images, annotations = [], []
    for number, (width, height) in enumerate(SIZES, start=1):
        Image.new("RGB", (width, height)).save(folder / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        for offset, category in enumerate((90, 90, 90, 47)):
            bbox = [10 + 20 * offset, 30, 100, 200]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": bbox,
                 "area": 20000, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_targets_of_a_batch(tmp_path, bert_vocabulary):
    """Row 77: box lists of the resized pictures, with labels 1 to 80 in COCO's order."""
    annotations, tokenizer = write_annotations(tmp_path), build_tokenizer(bert_vocabulary)
    for index, (side, size) in enumerate(zip(SHORTER_SIDES, PRINTED_SIZES, strict=True)):
        dataset = CocoGrounding(
            tmp_path, annotations, Resize(side, 1333), tokenizer=tokenizer, separation_tokens=". ", disable_shuffle=True
        )
        image, target, _ = dataset[index]
        assert isinstance(target, BoxList) and target.mode == "xyxy" and len(target) == 4
        assert target.size == size == image.size
        assert target.get_field("labels").tolist() == [80, 80, 80, 42]
        assert target.bbox[:, 2].max() < size[0] and target.bbox[:, 3].max() < size[1]
        assert target.get_field("positive_map").shape == (4, 256)
