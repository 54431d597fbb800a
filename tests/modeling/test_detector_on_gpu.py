"""The whole detector on a GPU and on the CPU: the same losses, gradients and detections."""

import pytest
import tiny_detector
import torch

from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList

pytestmark = pytest.mark.gpu
DEVICES = (torch.device("cpu"), torch.device("cuda"))
FUSE = "MODEL.DYHEAD.FUSE_CONFIG."
OPTIONS = {
    "dot product": (),
    "all token losses": (f"{FUSE}USE_CLASSIFICATION_LOSS", True, f"{FUSE}USE_SHALLOW_CONTRASTIVE_LOSS", True)
    + (f"{FUSE}USE_SHALLOW_ZERO_PADS", True, f"{FUSE}ADD_LINEAR_LAYER", True),
    "contrastive": (f"{FUSE}USE_CONTRASTIVE_ALIGN_LOSS", True, f"{FUSE}USE_DOT_PRODUCT_TOKEN_LOSS", False)
    + (f"{FUSE}USE_FUSED_FEATURES_DOT_PRODUCT", False),
    "film": (f"{FUSE}TYPE", "FILM"),
}
CAPTIONS = ["red star. blue cup", "green tree"]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Keeps products of float32 out of TensorFloat-32, whose 10 bits would need tolerances that hide mistakes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def build(tmp_path):
    """`build(options, device)`: a detector whose weights follow from the options."""
    folder = tiny_detector.make_text_folder(tmp_path / "text")

    def build(options, device):
        torch.manual_seed(0)
        model = build_detection_model(tiny_detector.tiny_config(folder, *options))
        return tiny_detector.scramble(model, scale=0.1).to(device)

    return build


def batch(device):
    images = tiny_detector.random_images((64, 96), (60, 90)).to(device)
    targets = []
    # No whole numbers: among anchors at equal distances the CPU and the GPU choose differently.
    for boxes in ([[5.3, 5.1, 40.6, 40.2], [30.7, 10.4, 90.1, 60.9]], [[10.2, 10.9, 50.3, 50.7]]):
        target = BoxList(boxes, (96, 64))
        target.add_field("labels", torch.ones(len(boxes), dtype=torch.int64))
        target.add_field("original_od_label", torch.arange(len(boxes)))
        target.add_field("positive_map_for_od_labels", torch.tensor([-1.0, 0, 1, -1]), per_box=False)
        target.add_field("tokens_positive", [[(0, 3)]] * len(boxes))
        targets.append(target.to(device))
    positive_map = torch.zeros(3, 256, device=device)
    positive_map[torch.arange(3), torch.tensor([1, 4, 1])] = 1
    return images, targets, positive_map


def without_randomness(model) -> None:
    """Computes losses, but drops nothing: random numbers of two devices differ."""
    model.eval()
    model.training = model.rpn.training = True


@pytest.mark.parametrize("name", OPTIONS)
def test_losses_and_gradients(name, build):
    results = []
    for device in DEVICES:
        model = build(OPTIONS[name], device)
        without_randomness(model)
        images, targets, positive_map = batch(device)
        losses = model(images, targets, CAPTIONS, positive_map)
        sum(losses.values()).backward()
        assert {loss.device.type for loss in losses.values()} == {device.type}
        gradients = [p.grad.norm().cpu() for p in model.parameters() if p.grad is not None]
        results.append(({key: loss.detach().cpu() for key, loss in losses.items()}, torch.stack(gradients).norm()))
    (expected, norm), (actual, own_norm) = results
    assert expected["loss_reg"] > 0
    # Sums of float32 in another order, through all layers.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own_norm, norm, rtol=1e-3, atol=0)


@pytest.mark.parametrize("aggregation", ["MEAN", "MAX", "POWER"])
def test_detections(aggregation, build):
    """All candidates, without threshold, suppression and cut, where a last bit could decide about a box."""
    options = ("MODEL.DYHEAD.SCORE_AGG", aggregation, "MODEL.ATSS.INFERENCE_TH", 0.0)
    options += ("MODEL.ATSS.NMS_TH", 0.0, "MODEL.ATSS.DETECTIONS_PER_IMG", 0)
    scores = []
    for device in DEVICES:
        model = build(options, device).eval()
        images, _, _ = batch(device)
        with torch.no_grad():
            found = model(images, captions=CAPTIONS, positive_map=[{1: [1, 2], 2: [4]}, {1: [1]}])
        for detections in found:
            assert {detections.bbox.device.type, detections.get_field("labels").device.type} == {device.type}
        scores.append([detections.get_field("scores").cpu() for detections in found])
    for expected, actual in zip(*scores, strict=True):
        assert len(expected) > 100
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
