import copy
import logging
import pickle

import pytest

from maskrcnn_benchmark.config import CfgNode, ConfigError, ConfigFileError, UnknownKeyError, default_config, loading


def override(*pairs):
    tree = default_config()
    tree.merge_from_list(pairs)
    return tree


def file_with(tmp_path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", 1, 1.0),
        ("SOLVER.CHECKPOINT_PER_EPOCH", "2", 2.0),
        ("SOLVER.MAX_ITER", "10", 10),
        ("SOLVER.USE_AMP", "True", True),
        ("DATASETS.TEST", '("a", "b")', ("a", "b")),
        ("DATASETS.TEST", "['a']", ("a",)),
        ("DATASETS.TEST", (("a",), ("b",)), (("a",), ("b",))),
        ("INPUT.PIXEL_STD", "(1.0, 2.0, 3.0)", [1.0, 2.0, 3.0]),
        ("SOLVER.STEPS", "(0.67,0.89)", (0.67, 0.89)),
        ("OUTPUT_DIR", "123", "123"),
        ("OUTPUT_DIR", "'quoted'", "quoted"),
        ("OUTPUT_DIR", "a b", "a b"),
        ("MODEL.WEIGHT", "None", ""),
        ("DATASETS.SEPARATION_TOKENS", ". ", ". "),
        ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "full", "full"),
        ("DATASETS.OVERRIDE_CATEGORY", '[{"id": 1, "name": "a"}]', [{"id": 1, "name": "a"}]),
        ("DATASETS.CAPTION_PROMPT", "[{'prefix': ' ', 'name': 'fish', 'suffix': ''},]", [
            {"prefix": " ", "name": "fish", "suffix": ""}
        ]),
    ],
)  # fmt: skip
def test_values_are_read_with_the_type_of_the_default(key, written, value):
    node = override(key, written)
    for part in key.split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("SOLVER.BASE_LR", "fast", "expected float (default 0.001), got str 'fast'"),
        ("SOLVER.BASE_LR", True, "expected float (default 0.001), got bool True"),
        ("SOLVER.MAX_ITER", "1.5", "expected int (default 40000), got float 1.5"),
        ("SOLVER.USE_AMP", "1", "expected bool (default False), got int 1"),
        ("DATASETS.TRAIN", '("a")', "expected tuple (default ()), got str 'a'; write ('a',)"),
        ("SOLVER", "3", "is a group of keys"),
    ],
)
def test_a_value_of_the_wrong_type_names_key_file_and_types(tmp_path, key, value, got):
    with pytest.raises(ConfigError) as raised:
        override(key, value)
    assert key in str(raised.value) and "the command line" in str(raised.value) and got in str(raised.value)

    path = file_with(tmp_path, "")
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path.write_text(CfgNode(nested).dump(), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        default_config().merge_from_file(path)
    assert key in str(raised.value) and str(path) in str(raised.value) and got in str(raised.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("MODELS.DEVICE", "MODEL.DEVICE"),
        ("MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE", "MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON"),
        ("model.device", "MODEL.DEVICE"),
        ("EARLY_FUSE_ON", "MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON"),
    ],
)
def test_an_unknown_key_names_key_file_and_nearest_key(tmp_path, key, nearest):
    with pytest.raises(UnknownKeyError, match=f"unknown configuration key {key} in the command line") as raised:
        override(key, "1")
    assert str(raised.value).endswith(f"the nearest valid key is {nearest}")
    assert all(isinstance(raised.value, kind) for kind in (KeyError, ValueError, AssertionError))

    nested = 1
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = file_with(tmp_path, CfgNode(nested).dump())
    with pytest.raises(UnknownKeyError) as raised:
        default_config().merge_from_file(path)
    assert key in str(raised.value) and str(path) in str(raised.value) and nearest in str(raised.value)


def test_a_key_below_a_value_is_unknown():
    with pytest.raises(UnknownKeyError, match="MODEL.DEVICE in the command line is a single value"):
        override("MODEL.DEVICE.NAME", "cpu")


def test_overrides_come_in_pairs():
    for kind in (ConfigError, AssertionError):
        with pytest.raises(kind, match="there are 3 words; the last is 'MODEL.WEIGHT'"):
            override("MODEL.DEVICE", "cpu", "MODEL.WEIGHT")


def test_a_missing_file_names_the_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFileError) as raised:
        default_config().merge_from_file("no/such.yaml")
    assert "'no/such.yaml' does not exist" in str(raised.value) and str(tmp_path) in str(raised.value)
    assert isinstance(raised.value, FileNotFoundError) and isinstance(raised.value, ValueError)


def test_a_folder_is_not_a_configuration(tmp_path):
    with pytest.raises(ConfigFileError, match="is a folder") as raised:
        default_config().merge_from_file(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "just text", "\x00", "a: &a {b: *a}", "a: " + 5000 * "["])
def test_a_file_that_is_not_a_yaml_mapping(tmp_path, text):
    path = file_with(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        default_config().merge_from_file(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_binary_file_is_not_a_configuration(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="is not a YAML file"):
        default_config().merge_from_file(path)


def test_an_empty_file_changes_nothing(tmp_path):
    tree = default_config()
    tree.merge_from_file(file_with(tmp_path, "# nothing\n"))
    assert tree == default_config()


def test_relative_paths_work_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = default_config()
    tree.merge_from_file("configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
    assert tree.MODEL.RPN_ARCHITECTURE == "VLDYHEAD"

    (tmp_path / "configs/pretrain").mkdir(parents=True)
    (tmp_path / "configs/pretrain/glip_Swin_T_O365_GoldG.yaml").write_text("MODEL: {DEVICE: cpu}", encoding="utf-8")
    nearer = default_config()
    nearer.merge_from_file("configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
    assert nearer.MODEL.DEVICE == "cpu" and nearer.MODEL.RPN_ARCHITECTURE == "RPN"


def test_runtime_keys_are_accepted_and_typed(tmp_path):
    tree = override("local_rank", "3", "num_gpus", 2)
    assert (tree.local_rank, tree.num_gpus) == (3, 2)
    with pytest.raises(ConfigError, match="num_gpus in the command line: expected int"):
        override("num_gpus", "many")


def test_open_groups_take_any_key_and_merge_deeply():
    tree = override("DATASETS.REGISTER.mine.img_dir", "a", "DATASETS.REGISTER.mine.ann_file", "b")
    tree.merge_from_list(["DATASETS.REGISTER", "{'mine': {'img_dir': 'c', 'is_train': True}}"])
    assert tree.DATASETS.REGISTER == {"mine": {"img_dir": "c", "ann_file": "b", "is_train": True}}
    assert tree.DATASETS.REGISTER.mine.img_dir == "c"


def test_a_deprecated_key_is_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(loading, "_already_warned", set())
    with caplog.at_level(logging.WARNING):
        override("MODEL.DYHEAD.TOPK", 9)
        assert not caplog.records  # its default
        override("MODEL.DYHEAD.TOPK", 5)
        override("MODEL.DYHEAD.TOPK", 5)
    assert [record.getMessage() for record in caplog.records] == [
        "MODEL.DYHEAD.TOPK in the command line has no effect: the assigner reads MODEL.ATSS.TOPK"
    ]


def test_trees_survive_copy_and_pickle():
    tree = override("MODEL.DEVICE", "cpu")
    for twin in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        assert twin == tree and type(twin.MODEL) is CfgNode
        assert twin.DATASETS.REGISTER.is_new_allowed()
