"""TSV datasets as a configuration names them: through catalogue, loader and collator."""

import pytest
from tsv_files import write_detection_tsv, write_tsv_dataset

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.dataset_options import dataset_options


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


def test_captions_train_beside_foreign_ones(cfg, tmp_path):
    record = {"img_h": 80, "img_w": 100, "bboxes": [[[10, 10, 39, 39], [50, 10, 99, 39]]], "scores": [[0.6, 0.2]]}
    labels = {name: record | {"caption": f"a {name} here", "tokens_positive": [[[2, 5]]]} for name in ("cat", "dog")}
    register(cfg, "caption", write_tsv_dataset(tmp_path, labels))
    cfg.DATASETS.CAPTION_FORMAT_VERSION = "v2"
    cfg.DATASETS.FURTHER_SCREEN = True
    cfg.DATASETS.CAPTION_CONF = 0.5
    cfg.DATASETS.PACK_RANDOM_CAPTION_NUMBER = 1
    for _, targets, _, positive_map, *_ in make_data_loader(cfg):
        assert len(positive_map) == len(targets) == 2 and (positive_map.sum(1) == 1).all()
        assert {target.get_field("caption") for target in targets} <= {
            "a cat here. a dog here. ",
            "a dog here. a cat here. ",
        }


def test_options_of_caption_data_follow_the_configuration(cfg):
    given = {"CAPTION_MIN_BOX": 3, "CAPTION_NMS": 0.4, "RANDOM_PACK_PROB": 0.5, "NO_RANDOM_PACK_PROBABILITY": 0.3}
    for key, value in given.items():
        cfg.DATASETS[key] = value
    options = dataset_options(cfg, is_train=True)
    assert {key: options[key.lower()] for key in given} == given
    assert not set(map(str.lower, given)) & set(dataset_options(cfg, is_train=False))


def test_keys_that_count_only_where_they_are_positive(cfg):
    """The original leaves these arguments at their defaults otherwise."""
    keys = {"CAPTION_MIN_BOX": 1, "CAPTION_CONF": 0.5, "RANDOM_PACK_PROB": -1.0}
    for key in keys:
        cfg.DATASETS[key] = type(cfg.DATASETS[key])(0)
    cfg.DATASETS.RANDOM_SAMPLE_NEG = 0
    options = dataset_options(cfg, is_train=True)
    assert {key: options[key.lower()] for key in keys} == keys and options["random_sample_negative"] == -1
