"""Loaders from a configuration: registered data, iterations, order, copies, and messages for mistakes."""

import base64
import json

import pytest
import torch
from data_files import write_coco_toy, write_grounding_toy
from torch.utils.data import Dataset
from tsv_files import png, write_detection_tsv, write_tsv, write_tsv_dataset

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import aspect_ratio_groups, build_datasets, dataset_names, make_data_loader
from maskrcnn_benchmark.data.dataset_options import dataset_options, number_of_copies
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.image_file import BrokenImage
from maskrcnn_benchmark.utils import comm


@pytest.fixture
def cfg(tmp_path, bert_vocabulary):
    """Detection and grounding data mixed: five pictures."""
    node = default_config()
    node.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    node.INPUT.MIN_SIZE_TRAIN = 80
    node.INPUT.MIN_SIZE_TEST = 80
    node.DATALOADER.NUM_WORKERS = 0
    node.DATALOADER.SIZE_DIVISIBILITY = 32
    node.DATASETS.SEPARATION_TOKENS = ". "
    node.SOLVER.IMS_PER_BATCH = 2
    node.SOLVER.MAX_ITER = 7
    node.TEST.IMS_PER_BATCH = 2
    coco, grounding = str(write_coco_toy(tmp_path)), str(write_grounding_toy(tmp_path))
    node.DATASETS.REGISTER.toy_coco = CfgNode({"type": "grounding", "img_dir": str(tmp_path), "ann_file": coco})
    node.DATASETS.REGISTER.toy_text = CfgNode({"type": "modulated", "img_dir": str(tmp_path), "ann_file": grounding})
    node.DATASETS.REGISTER.toy_test = CfgNode({"type": "coco", "img_dir": str(tmp_path), "ann_file": coco})
    node.DATASETS.TRAIN = ("toy_coco", "toy_text")
    node.DATASETS.TEST = ("toy_test",)
    return node


def captions(loader) -> list[list[str]]:
    return [[target.get_field("caption") for target in targets] for _, targets, *_ in loader]


def test_training_loader_mixes_detection_and_grounding(cfg):
    loader = make_data_loader(cfg)
    batches = list(loader)
    assert len(loader) == len(batches) == 7
    images, targets, _, positive_map, positive_map_eval, greenlight_map = batches[0]
    assert images.tensors.shape == (2, 3, 96, 128)
    assert (
        len(positive_map) == sum(map(len, targets)) and positive_map_eval is None and greenlight_map.shape == (2, 256)
    )
    texts = {text for batch in batches for targets in [batch[1]] for text in (t.get_field("caption") for t in targets)}
    assert "a small dog" in texts and any(". " in text for text in texts)


def test_processes_do_not_talk_while_they_load(cfg, monkeypatch):
    """They begin a pass at different iterations where one has fewer full batches; a talk would meet another one."""
    monkeypatch.setattr(comm, "broadcast_object", lambda *_: pytest.fail("another process is asked"))
    cfg.DATALOADER.USE_RANDOM_SEED = True
    cfg.DATASETS.GENERAL_COPY = 3
    orders = [
        [batch for loader in [make_data_loader(cfg, num_replicas=2, rank=rank)] for batch in loader.batch_sampler]
        for rank in (0, 1)
    ]
    first_pass = [[index for batch in order[:3] for index in batch] for order in orders]
    assert not set(first_pass[0]) & set(first_pass[1]), "parts of one permutation"


def test_order_repeats_and_starts_in_the_middle(cfg):
    whole = captions(make_data_loader(cfg))
    assert whole == captions(make_data_loader(cfg))
    assert whole[3:] == captions(make_data_loader(cfg, start_iter=3))
    cfg.SOLVER.SEED = 5
    assert whole != captions(make_data_loader(cfg)), "the shuffled class names depend on the seed"


@pytest.mark.parametrize(("options", "is_by_seed"), [({}, True), ({"is_distributed": True}, False)])
def test_order_of_one_process_follows_the_seed_and_of_several_the_epoch(cfg, options, is_by_seed):
    cfg.DATASETS.GENERAL_COPY = 4
    orders = []
    for seed in (0, 0, 5):
        cfg.SOLVER.SEED = seed
        orders.append(list(make_data_loader(cfg, **options).batch_sampler))
    assert orders[0] == orders[1] and (orders[0] != orders[2]) == is_by_seed


def test_iterations_that_are_given_leave_the_configuration_alone(cfg):
    cfg.freeze()
    assert len(make_data_loader(cfg)) == 7 and cfg.SOLVER.DATASET_LENGTH == -1


def test_epochs_become_iterations(cfg):
    cfg.SOLVER.MAX_EPOCH = 4
    cfg.freeze()
    assert len(make_data_loader(cfg)) == 4 * 5 // 2
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.DATASET_LENGTH) == (10, 5) and cfg.is_frozen()


def test_copies_count_in_epochs(cfg):
    cfg.SOLVER.MAX_EPOCH, cfg.DATASETS.GENERAL_COPY = 2, 3
    loader = make_data_loader(cfg)
    assert cfg.SOLVER.DATASET_LENGTH == 3 * 5 and len(loader) == cfg.SOLVER.MAX_ITER == 2 * 15 // 2
    assert len({tuple(batch) for batch in captions(loader)}) > 1


def test_few_pictures_for_many_processes_need_copies(cfg):
    """One shot on several processes: nothing to train on, unless every picture is there more than once."""
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH = ("toy_text",), 8
    arguments = {"is_distributed": True, "num_replicas": 4, "rank": 0}
    with pytest.raises(ValueError, match="more copies of the dataset"):
        next(iter(make_data_loader(cfg, **arguments)))
    cfg.DATASETS.GENERAL_COPY = 8
    assert len(list(make_data_loader(cfg, **arguments))) == cfg.SOLVER.MAX_ITER


def test_processes_share_a_pass(cfg):
    cfg.SOLVER.MAX_ITER = 2
    loaders = [make_data_loader(cfg, is_distributed=True, num_replicas=2, rank=rank) for rank in (0, 1)]
    (first, *_), (second, *_) = map(captions, loaders)
    assert len(first) == len(second) == 1 and first != second


def test_test_loader_goes_through_the_set_in_order(cfg):
    (loader,) = make_data_loader(cfg, is_train=False)
    assert [index for _, _, indices, *_ in loader for index in indices] == [0, 1, 2]
    assert loader.dataset.categories() == {1: "cat", 2: "dog", 3: "absent, thing"}


def test_copies_of_a_test_set_are_evaluated_once(cfg):
    cfg.DATASETS.GENERAL_COPY_TEST = 2
    (loader,) = make_data_loader(cfg, is_train=False)
    assert [index for _, _, indices, *_ in loader for index in indices] == [0, 1, 2]
    assert loader.dataset.id_to_img_map == {0: 2, 1: 5, 2: 9}


def test_number_of_copies(cfg):
    cfg.DATASETS.FLICKR_COPY = 8
    cfg.DATASETS.GENERAL_COPY = 3
    assert number_of_copies(cfg, "flickr30k_train", is_train=True) == 8
    assert number_of_copies(cfg, "object365_dt_train", is_train=True) == 3
    assert number_of_copies(cfg, "flickr30k_test", is_train=False) == 1
    cfg.DATASETS.GENERAL_COPY = 0
    with pytest.raises(ValueError, match="0 copies"):
        number_of_copies(cfg, "mine", is_train=True)


def test_suffix_selects_the_kind_of_data(cfg, tmp_path):
    cfg.DATASETS.REGISTER.plain = CfgNode({"img_dir": str(tmp_path), "ann_file": str(tmp_path / "toy.json")})
    cfg.DATASETS.TRAIN = ("plain",)
    cfg.DATASETS.TRAIN_DATASETNAME_SUFFIX = "_grounding"
    (dataset,) = build_datasets(cfg, is_train=True)
    assert type(dataset).__name__ == "CocoGrounding"


def test_aspect_ratio_groups():
    class Records(Dataset):
        looked_at = 0
        sizes = ((10, 20), (20, 10), (10, 10))

        def __len__(self):
            return 3

        def get_img_info(self, index):
            self.looked_at += 1
            return dict(zip(("width", "height"), self.sizes[index], strict=True))

    assert aspect_ratio_groups(Records()) == [1, 0, 1]
    records = Records()
    assert aspect_ratio_groups(ConcatDataset([CopiedDataset(records, 3), Records()])) == [1, 0, 1] * 4
    assert records.looked_at == 3


@pytest.mark.parametrize("lost", ["width", "height"])
def test_batches_need_the_sizes_of_the_pictures(cfg, tmp_path, lost):
    content = json.loads((tmp_path / "toy.json").read_text())
    content["images"][1][lost] = None
    (tmp_path / "toy.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"file_name .* has the .*{lost} None.*ASPECT_RATIO_GROUPING False"):
        make_data_loader(cfg)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    assert len(list(make_data_loader(cfg))) == 7


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("categories", "cat", r"dataset toy_coco: malformed annotations \(TypeError: "),
        ("annotations", 5, r"dataset toy_coco: malformed annotations \(AttributeError: "),
        ("images", 5, r"dataset toy_coco: malformed annotations \(TypeError: "),
    ],
)
def test_malformed_files_are_named(cfg, tmp_path, part, value, message):
    content = json.loads((tmp_path / "toy.json").read_text())
    content[part][0] = value
    (tmp_path / "toy.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        make_data_loader(cfg)


def test_caption_prompt_from_a_file(cfg, tmp_path):
    (tmp_path / "prompt.yaml").write_text("- {prefix: 'a ', name: cat, suffix: ''}\n")
    cfg.DATASETS.CAPTION_PROMPT = str(tmp_path / "prompt.yaml")
    assert dataset_options(cfg, is_train=True)["caption_prompt"] == [{"prefix": "a ", "name": "cat", "suffix": ""}]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", (("toy_coco",), ("toy_text",)), "groups of datasets"),
        ("DATASETS.TRAIN", ("toy_kokko",), "did you mean 'toy_coco'"),
        ("DATASETS.REGISTER", CfgNode({"toy": "toy.json"}), "DATASETS.REGISTER.toy='toy.json' has no fields"),
        ("SOLVER.MAX_ITER", 0, "SOLVER.MAX_ITER"),
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH=0"),
        ("DATASETS.CONTROL_PROB", (0.5, 0.6, 0.0, 0.0), "CONTROL_PROB"),
        ("DATASETS.MULTISTAGE_TRAINING", True, "MULTISTAGE_TRAINING is not supported"),
    ],
)
def test_mistakes_are_named(cfg, key, value, message):
    section, name = key.split(".")
    cfg[section][name] = value
    with pytest.raises(ValueError, match=message):
        make_data_loader(cfg)


def test_batch_that_cannot_be_shared_out(cfg):
    with pytest.raises(ValueError, match="multiple of the number of processes, 3"):
        make_data_loader(cfg, is_distributed=True, num_replicas=3, rank=0)


def test_workers_read_the_same_data(cfg):
    alone = list(make_data_loader(cfg))
    cfg.DATALOADER.NUM_WORKERS = 2
    for one, other in zip(alone, make_data_loader(cfg), strict=True):
        assert torch.equal(one[0].tensors, other[0].tensors) and torch.equal(one[3], other[3])


def test_classes_of_several_closed_sets_get_labels_of_their_own(cfg):
    cfg.DATASETS.REGISTER.second = CfgNode(dict(cfg.DATASETS.REGISTER.toy_test))
    cfg.DATASETS.TRAIN = ("toy_test", "second")
    cfg.DATASETS.CLASS_CONCAT = True
    (dataset,) = build_datasets(cfg, is_train=True)
    labels = [dataset[index][1].get_field("labels").tolist() for index in range(len(dataset))]
    assert labels == [[1], [2], [], [4], [5], []]
    second = dataset.datasets[1]
    assert second.categories() == {4: "cat", 5: "dog", 6: "absent, thing"}
    assert second.json_category_id_to_contiguous_id == {7: 4, 3: 5, 11: 6}
    cfg.DATASETS.CLASS_CONCAT = False
    assert [item[1].get_field("labels").tolist() for item in (build_datasets(cfg, True)[0][3],)] == [[1]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.CLASS_CONCAT = ("toy_coco",), True
    with pytest.raises(ValueError, match="toy_coco is a CocoGrounding"):
        make_data_loader(cfg)


def test_numbered_parts_of_captions_take_the_place_of_the_whole(cfg):
    cfg.DATASETS.TRAIN = ("bing_caption_train", "toy_coco")
    assert dataset_names(cfg, True) == ["bing_caption_train", "toy_coco"]
    cfg.DATASETS.BING_INDEX_LIST = [0, 3]
    assert dataset_names(cfg, True) == ["toy_coco", "bing_caption_0_train", "bing_caption_3_train"]
    assert dataset_names(cfg, False) == ["toy_test"]
    cfg.DATASETS.TRAIN = ("bing_caption_train_no_coco",)
    assert dataset_names(cfg, True) == ["bing_caption_0_train_no_coco", "bing_caption_3_train_no_coco"]


def test_parts_of_captions_are_shared_out_among_machines(cfg, tmp_path, monkeypatch):
    label = {"caption": "a cat", "bboxes": [[1, 1, 50, 50]], "tokens_positive": [[[2, 5]]], "scores": [0.9]}
    for part in (0, 1):
        (tmp_path / str(part)).mkdir()
        write_tsv_dataset(tmp_path / str(part), {f"{part}{row}": label for row in range(4)})
        (tmp_path / f"captions.{part}.yaml").write_text(
            f'{{"img": "{part}/images.tsv", "label": "{part}/raw_label.tsv"}}'
        )
    entry = {"type": "caption", "yaml_path": str(tmp_path), "yaml_name": "captions"}
    cfg.DATASETS.REGISTER.bing_caption_train = CfgNode(entry)
    cfg.DATASETS.TRAIN, cfg.DATASETS.BING_INDEX_LIST = ("bing_caption_train", "toy_coco"), [0, 1]
    cfg.DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE = True
    cfg.SOLVER.MAX_ITER = 10
    monkeypatch.setenv("NODE_COUNT", "2")
    for rank in (0, 1):
        monkeypatch.setenv("NODE_RANK", str(rank))
        loader = make_data_loader(cfg, is_distributed=True, num_replicas=2, rank=rank)
        boxes = [target.get_field("boxes") for _, targets, *_ in loader for target in targets]
        sources = set(loader.batch_sampler.batch_sampler.batch_sampler.sampler.own)
        assert 50.0 in torch.cat(boxes) and sources == set(range(3 + 4 * rank, 7 + 4 * rank))
    cfg.DATASETS.TRAIN = ("toy_coco",)
    with pytest.raises(ValueError, match="several training sets"):
        make_data_loader(cfg)


def test_a_training_loader_shows_the_data_and_keeps_all_fields(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = make_data_loader(cfg)
    assert type(loader.dataset).__name__ == "ConcatDataset" and loader.num_workers == 1
    assert not hasattr(loader, "absent")
    _, targets, indices, positive_map, *_ = next(iter(loader))
    fields = {"labels", "boxes", "caption", "image_id", "tokens_positive", "area", "iscrowd", "orig_size", "size"}
    fields |= {"positive_map", "greenlight_map", "positive_map_for_od_labels", "original_od_label"}
    assert all(fields <= set(target.fields()) for target in targets) and len(indices) == 2
    assert torch.equal(torch.cat([target.get_field("positive_map") for target in targets]) > 0, positive_map > 0)


@pytest.mark.parametrize("cell", [b"%%%", base64.b64encode(b"nothing"), base64.b64encode(png(20)[:60])])
def test_broken_picture_of_a_tsv_can_be_skipped(cfg, tmp_path, cell, caplog):
    """Its size, by which pictures are grouped, is in no other file."""
    yaml_file = write_detection_tsv(tmp_path)
    write_tsv(tmp_path / "images.tsv", [("7", cell), *((key, base64.b64encode(png(20))) for key in "89")])
    cfg.DATASETS.REGISTER.toy_tsv = CfgNode({"type": "dt", "yaml_file": str(yaml_file)})
    cfg.DATASETS.TRAIN = ("toy_tsv",)
    cfg.DATASETS.CONTROL_PROB = (0.0, 0.0, 0.5, 0.0)
    with pytest.raises(BrokenImage, match=f"row 0 of {tmp_path / 'images.tsv'}"):
        list(make_data_loader(cfg))
    cfg.DATALOADER.ON_ERROR = "skip"
    assert len(list(make_data_loader(cfg))) == 7
    assert caplog.text.count(f"row 0 of {tmp_path / 'images.tsv'}") == 1
