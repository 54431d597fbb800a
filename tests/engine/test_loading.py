"""A model for inference: its weights are those of the checkpoint, and only a missing checkpoint is worth a warning."""

import logging

import torch
from tiny_detector import make_text_folder, tiny_config

from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import save_weights


def test_a_checkpoint_brings_the_text_weights(tmp_path, caplog):
    cfg = tiny_config(make_text_folder(tmp_path / "text"))
    with caplog.at_level(logging.WARNING, logger="maskrcnn_benchmark"):
        saved = build_detection_model(cfg)
        assert "starts untrained" in caplog.text
        caplog.clear()
        save_weights(saved, tmp_path / "w.safetensors")
        loaded = load_model(cfg, tmp_path / "w.safetensors", torch.device("cpu"))
    assert not caplog.records and not loaded.training
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_without_a_checkpoint_the_warning_stays(tmp_path, caplog):
    cfg = tiny_config(make_text_folder(tmp_path / "text"))
    with caplog.at_level(logging.WARNING, logger="maskrcnn_benchmark"):
        assert not load_model(cfg, None, torch.device("cpu")).training
    assert "starts untrained" in caplog.text
