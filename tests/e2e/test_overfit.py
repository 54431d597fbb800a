"""The real detector, at its smallest, learns two pictures by heart through the training tool and finds them again."""

import torch
from two_pictures import two_pictures_config

from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.engine.inference import inference
from maskrcnn_benchmark.engine.training.training_run import RunOptions, train
from maskrcnn_benchmark.utils.random_state import seed_everything


def test_two_pictures_by_heart(tmp_path):
    cfg = two_pictures_config(tmp_path)
    (tmp_path / "out").mkdir()
    seed_everything(0)
    model = train(cfg, torch.device("cpu"), RunOptions())
    (loader,) = make_data_loader(cfg, is_train=False)
    figures = inference(model, loader, "toy", device="cpu", cfg=cfg, verbose=False)
    assert figures["Recall@1_all"] == 1.0
