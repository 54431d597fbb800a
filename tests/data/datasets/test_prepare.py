"""From annotations to tensors: which boxes stay, and what goes with them."""

import torch
from PIL import Image

from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask

IMAGE = Image.new("RGB", (100, 80))


def annotation(x: float, **other) -> dict:
    return {"bbox": [x, 10, 30, 20], "category_id": 7, "area": 600.0} | other


def test_what_boxes_have_goes_with_them():
    """A crowd, and a box beyond the right border, take their entries with them."""
    points = [[float(n), 2.0, 2.0, 5.0, 6.0, 0.0] for n in range(4)]
    annotations = [
        annotation(0, isfinal=1, keypoints=points[0], original_od_label=3),
        annotation(10, isfinal=0, keypoints=points[1], iscrowd=1),
        annotation(120, isfinal=0, keypoints=points[2]),
        annotation(80, isfinal=1, keypoints=points[3], iscrowd=0),
    ]
    image, fields = ConvertCocoPolysToMask()(IMAGE, {"image_id": 4, "annotations": annotations})
    assert image is IMAGE
    assert fields["boxes"].tolist() == [[0, 10, 29, 29], [80, 10, 99, 29]]
    assert fields["keypoints"].tolist() == [[[n, 2, 2], [5, 6, 0]] for n in (0, 3)]
    assert fields["isfinal"].tolist() == [1, 1] and fields["original_od_label"].tolist() == [3, -10]
    assert fields["image_id"].tolist() == [4] and fields["orig_size"].tolist() == fields["size"].tolist() == [80, 100]


def test_a_picture_without_boxes():
    _, fields = ConvertCocoPolysToMask()(IMAGE, {"image_id": "a", "annotations": [annotation(0, iscrowd=1)]})
    assert fields["boxes"].shape == (0, 4) and fields["labels"].dtype == torch.int64 and fields["image_id"] == "a"
    assert not {"keypoints", "isfinal", "caption", "tokens_positive", "positive_map"} & set(fields)
    _, fields = ConvertCocoPolysToMask()(IMAGE, {"image_id": 1, "annotations": [], "caption": "nothing"})
    assert fields["tokens_positive"] == []


def test_corners_are_taken_as_they_are():
    boxes = [[-5.0, 10.0, 120.0, 90.0], [10.0, 10.0, 10.0, 20.0]]
    annotations = [annotation(0) | {"bbox": box} for box in boxes]
    _, fields = ConvertCocoPolysToMask()(IMAGE, {"image_id": 1, "annotations": annotations}, box_format="xyxy")
    assert fields["boxes"].tolist() == boxes[:1]
