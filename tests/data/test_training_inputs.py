"""What the model of the recorded training step was fed: pictures, boxes and token maps, made by our own data code."""

import json

import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_path, load_golden
from PIL import Image

from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask, attach_fields
from maskrcnn_benchmark.data.transforms import Compose, Normalize, Resize, ToTensor
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

NAME = "train_glip_Swin_T_O365_GoldG"
TRANSFORMS = Compose(
    [Resize(320, 1333), ToTensor(), Normalize([103.530, 116.280, 123.675], [57.375, 57.120, 58.395], "bgr255")]
)


@pytest.fixture(scope="module")
def golden():
    return load_golden(f"{NAME}.npz")


@pytest.fixture
def items(bert_vocabulary):
    prepare = ConvertCocoPolysToMask(return_tokens=True, tokenizer=build_tokenizer(bert_vocabulary))
    samples = json.loads(golden_path(f"{NAME}.json").read_text())["samples"]
    return [_item(sample, index, prepare) for index, sample in enumerate(samples)]


def _item(sample: dict, index: int, prepare: ConvertCocoPolysToMask):
    """One dataset item, as the detection sets make them."""
    with Image.open(golden_path(sample["image"])) as file:
        image = file.convert("RGB")
    spans = sample["tokens_positive"]
    annotations = [
        {"bbox": box, "category_id": label, "iscrowd": 0, "area": 1.0, "tokens_positive": tokens}
        for box, label, tokens in zip(sample["boxes_xyxy"], sample["labels"], spans, strict=True)
    ]
    record = {
        "image_id": index,
        "annotations": annotations,
        "caption": sample["caption"],
        "greenlight_span_for_masked_lm_objective": [tokens[0] for tokens in spans],
        "label_to_positions": {int(label): span for label, span in sample["label_to_positions"].items()},
    }
    image, fields = prepare(image, record, box_format="xyxy")
    target = BoxList(fields["boxes"], image.size)
    target.add_field("labels", fields["labels"])
    tensor, target = TRANSFORMS(image, target)
    attach_fields(target, fields)
    return tensor, target, index


@pytest.mark.parity
def test_targets(items, golden):
    for index, (_, target, _) in enumerate(items):
        name = f"target{index}"
        assert_golden(target.bbox, golden, f"{name}.boxes", TOLERANCES["exact"])
        assert_golden(target.get_field("labels"), golden, f"{name}.labels", TOLERANCES["exact"])
        labels = target.get_field("positive_map_for_od_labels")
        assert_golden(labels, golden, f"{name}.positive_map_for_od_labels", TOLERANCES["exact"])
        recorded = f"{name}.positive_map_normalised(before collation)"
        assert_golden(target.get_field("positive_map"), golden, recorded, TOLERANCES["exact"])


@pytest.mark.parity
def test_batch(items, golden):
    images, _, _, positive_map, positive_map_eval, greenlight_map = BatchCollator(32)(items)
    assert images.tensors.shape == tuple(golden["batch.shape"])
    assert_golden(images.tensors, golden, "batch.tensor", TOLERANCES["transform"])
    assert_golden(positive_map, golden, "positive_map", TOLERANCES["exact"])
    assert_golden(greenlight_map, golden, "greenlight_map", TOLERANCES["exact"])
    assert positive_map_eval is None and torch.equal(positive_map, positive_map.bool().float())
