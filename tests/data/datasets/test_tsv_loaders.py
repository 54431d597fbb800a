"""TSV datasets as a configuration names them: through catalogue, loader and collator."""

import pytest
from tsv_files import write_detection_tsv

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader


@pytest.fixture
def cfg(bert_vocabulary):
    node = default_config()
    node.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    node.INPUT.MIN_SIZE_TRAIN = node.INPUT.MIN_SIZE_TEST = 80
    node.DATALOADER.NUM_WORKERS = 2
    node.DATASETS.SEPARATION_TOKENS = ". "
    node.DATASETS.RANDOM_SAMPLE_NEG = 85
    node.DATASETS.CONTROL_PROB = (0.0, 0.0, 0.5, 0.0)
    node.SOLVER.IMS_PER_BATCH = node.TEST.IMS_PER_BATCH = 2
    node.SOLVER.MAX_ITER = 4
    node.DATASETS.TRAIN = node.DATASETS.TEST = ("toy",)
    return node


def register(cfg, kind: str, path) -> None:
    cfg.DATASETS.REGISTER.toy = CfgNode({"type": kind, "yaml_file": str(path)})


def test_detection_tsv_trains_as_grounding_data(cfg, tmp_path):
    register(cfg, "dt", write_detection_tsv(tmp_path))
    batches = list(make_data_loader(cfg))
    assert len(batches) == 4
    for images, targets, _, positive_map, _, greenlight_map in batches:
        assert images.tensors.shape[0] == 2 and greenlight_map.shape == (2, 256)
        assert len(positive_map) == sum(map(len, targets))
        assert all(target.get_field("caption") for target in targets)


def test_detection_tsv_as_closed_set(cfg, tmp_path):
    register(cfg, "odtsv", write_detection_tsv(tmp_path))
    (loader,) = make_data_loader(cfg, is_train=False)
    labels = [target.get_field("labels").tolist() for _, targets, *_ in loader for target in targets]
    assert labels == [[1, 2], [2, 1], []]
