"""Several texts read with one image, and equal captions encoded once."""

import pytest
import tiny_detector
import torch

from maskrcnn_benchmark.modeling.detector import build_detection_model, many_texts
from maskrcnn_benchmark.modeling.postprocess.token_scores import build_token_map

CAPTIONS = ["red star. blue cup", "green tree", "yellow circle. red star. cup", "star", "blue tree. cup"]
MAPS = [{1: [1, 2], 2: [4]}, {3: [1, 2]}, {4: [1], 5: [3]}, {6: [1]}, {7: [1]}]


@pytest.fixture(params=["glip_Swin_T_O365_GoldG", "glip_A_Swin_T_O365"])
def model(request, tmp_path):
    folder = tiny_detector.make_text_folder(tmp_path / "text")
    torch.manual_seed(0)
    cfg = tiny_detector.tiny_config(folder, "MODEL.ATSS.INFERENCE_TH", 0.0, base=request.param)
    return tiny_detector.scramble(build_detection_model(cfg), scale=0.1).eval()


@pytest.mark.parametrize("shared_map", [False, True])
def test_texts_together_equal_texts_one_by_one(model, shared_map):
    images = tiny_detector.random_images((60, 90))
    with torch.no_grad():
        features = model.encode_image(images)
        text = model.encode_text(CAPTIONS)
        together = model.detect(features, text, MAPS[3] if shared_map else MAPS)
        for i, caption in enumerate(CAPTIONS):
            alone = model.detect(features, model.encode_text([caption]), MAPS[3] if shared_map else MAPS[i])
            assert len(alone[0]) > 0
            tiny_detector.assert_same_boxes([together[i]], alone)


def test_portions_do_not_change_the_result(model, monkeypatch):
    images = tiny_detector.random_images((60, 90))
    with torch.no_grad():
        features, text = model.encode_image(images), model.encode_text(CAPTIONS)
        results = []
        for limit in (1, 2, 64):
            monkeypatch.setattr(many_texts, "CPU_TEXTS", limit)
            results.append(model.detect(features, text, MAPS))
    assert len(results[0]) == len(CAPTIONS)
    tiny_detector.assert_same_boxes(results[1], results[0])
    tiny_detector.assert_same_boxes(results[2], results[0])


@pytest.mark.parametrize("shared_map", [False, True])
def test_a_token_map_serves_several_texts(model, monkeypatch, shared_map):
    monkeypatch.setattr(many_texts, "CPU_TEXTS", 2)
    maps = MAPS[3] if shared_map else MAPS
    with torch.no_grad():
        features, text = model.encode_image(tiny_detector.random_images((60, 90))), model.encode_text(CAPTIONS)
        found = model.detect(features, text, build_token_map(maps, text.hidden.shape[1]))
        tiny_detector.assert_same_boxes(found, model.detect(features, text, maps))
        with pytest.raises(ValueError, match="2 positive maps for 5 texts"):
            model.detect(features, text, build_token_map(MAPS[:2], text.hidden.shape[1]))


def test_portions_are_of_about_the_same_size(monkeypatch):
    monkeypatch.setattr(many_texts, "CPU_TEXTS", 8)
    assert many_texts.texts_at_a_time(31, 100, torch.device("cpu")) == 8
    assert many_texts.texts_at_a_time(9, 100, torch.device("cpu")) == 5
    assert many_texts.texts_at_a_time(2, 100, torch.device("cpu")) == 2


def test_a_wrong_number_of_maps_is_refused(model):
    images = tiny_detector.random_images((60, 90))
    with torch.no_grad(), pytest.raises(ValueError, match="2 positive maps for 5 texts"):
        model.detect(model.encode_image(images), model.encode_text(CAPTIONS), MAPS[:2])


def test_equal_captions_are_encoded_once(model, monkeypatch):
    rows = []
    encode = model.encode_tokens
    monkeypatch.setattr(
        model, "encode_tokens", lambda ids, *args, **more: rows.append(len(ids)) or encode(ids, *args, **more)
    )
    captions = [CAPTIONS[0], CAPTIONS[1], CAPTIONS[0], CAPTIONS[0]]
    with torch.no_grad():
        text = model.encode_text(captions)
        separate = model.encode_text(captions[:2])
    assert rows == [2, 2]
    torch.testing.assert_close(text.hidden, separate.hidden[[0, 1, 0, 0]])
    assert torch.equal(text.masks, separate.masks[[0, 1, 0, 0]])
