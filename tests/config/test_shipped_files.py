import json

import golden_tools
import pytest
import yaml
from config_tools import REPOSITORY, flatten, recorded_deltas

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.config.added_keys import ADDED_KEYS

OUR_FILES = {
    "configs/coco/val.yaml",
    "configs/pretrain/glip_A_Swin_T_O365_debug.yaml",
    "configs/pretrain/glip_Swin_T_O365_GoldG_Cap4M.yaml",
    "configs/pretrain/glip_Swin_T_O365_mixedgrounding.yaml",
}
GOLDG = "configs/pretrain/glip_Swin_T_O365_GoldG.yaml"
PUBLISHED_FOLDERS = ("pretrain", "lvis", "flickr", "odinw_13", "odinw_35")
ALL_FILES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yaml"))
PUBLISHED_FILES = [file for file in ALL_FILES if file.split("/")[1] in PUBLISHED_FOLDERS and file not in OUR_FILES]


def merged(*files: str) -> dict:
    tree = default_config()
    for file in files:
        tree.merge_from_file(file)
    return flatten(tree)


def test_every_published_file_is_there():
    assert len(PUBLISHED_FILES) == 58
    assert set(PUBLISHED_FILES) == set(recorded_deltas())
    assert set(ALL_FILES) >= OUR_FILES


@pytest.mark.parity
@pytest.mark.parametrize("file", PUBLISHED_FILES)
def test_file_merges_to_the_recorded_values(file):
    defaults = flatten(default_config())
    changed = {name: value for name, value in merged(file).items() if value != defaults[name]}
    assert changed == recorded_deltas()[file]


@pytest.mark.parity
@pytest.mark.parametrize("task", ["flickr/test", "lvis/minival", "odinw_13/Raccoon_Raccoon.v2-raw.coco"])
def test_task_over_model_gives_the_recorded_tree(task):
    name = f"config/stack__glip_Swin_T_O365_GoldG__{task.replace('/', '__')}.yaml"
    recorded = flatten(yaml.safe_load(golden_tools.golden_path(name).read_text(encoding="utf-8")))
    values = merged(GOLDG, f"configs/{task}.yaml")
    for ours in [key.name for key in ADDED_KEYS] + ["PATHS_CATALOG"]:
        values.pop(ours)
    recorded.pop("PATHS_CATALOG")
    assert values == recorded


@pytest.mark.parametrize("file", ALL_FILES)
def test_every_file_merges_over_a_model_configuration(file):
    values = merged(GOLDG, file)
    tree = default_config()
    tree.merge_from_file(GOLDG)
    tree.merge_from_file(file)
    again = default_config()
    again.merge_from_other_cfg(yaml.safe_load(tree.dump()))
    assert flatten(again) == values


def test_list_of_odinw_35():
    files = json.loads((REPOSITORY / "configs/odinw_35/_all.json").read_text(encoding="utf-8"))
    assert len(files) == len(set(files)) == 35
    everything = {file for file in ALL_FILES if file.startswith("configs/odinw_35/")}
    assert everything - set(files) == {"configs/odinw_35/plantdoc_100x100.yaml"}


def test_mixed_grounding_differs_from_goldg_in_data_and_batch():
    ours, published = merged("configs/pretrain/glip_Swin_T_O365_mixedgrounding.yaml"), merged(GOLDG)
    assert {name for name in ours if ours[name] != published[name]} == {
        "DATASETS.TRAIN",
        "SOLVER.IMS_PER_BATCH",
        "TEST.IMS_PER_BATCH",
    }


def test_web_captions_are_added_to_goldg_with_the_keys_of_glip_l():
    ours, published = merged("configs/pretrain/glip_Swin_T_O365_GoldG_Cap4M.yaml"), merged(GOLDG)
    large = merged("configs/pretrain/glip_Swin_L.yaml")
    changed = {name for name in ours if ours[name] != published[name]}
    assert [*ours["DATASETS.TRAIN"]] == [*published["DATASETS.TRAIN"], "web_captions"]
    keys = changed - {"DATASETS.REGISTER", "DATASETS.TRAIN"}
    assert len(keys) == 6 and all(name.startswith("DATASETS.") and ours[name] == large[name] for name in keys)


def test_debug_file_keeps_the_architecture_of_glip_a():
    """Seed row 15: the run starts from the published GLIP-T (A) weights."""
    ours = merged("configs/pretrain/glip_A_Swin_T_O365_debug.yaml")
    published = merged("configs/pretrain/glip_A_Swin_T_O365.yaml")
    changed = {name for name in ours if ours[name] != published[name] and name.startswith("MODEL.")}
    assert changed == {"MODEL.WEIGHT"}
    assert ours["SOLVER.IMS_PER_BATCH"] == 1 and ours["SOLVER.MAX_ITER"] <= 20


def test_coco_task_names_the_real_annotation_files():
    """Seed row 65, whose text says instance_train2017.json."""
    registered = merged("configs/coco/val.yaml")["DATASETS.REGISTER"]
    assert registered["coco_train"]["ann_file"] == "coco/annotations/instances_train2017.json"
    assert registered["coco_val"] == {"img_dir": "coco/val2017", "ann_file": "coco/annotations/instances_val2017.json"}


@pytest.mark.parity
def test_printed_configuration_of_453_entries_merges_back():
    """Seed row 18: a printed tree is the defaults under the GoldG file, but for four values of that run."""
    path = golden_tools.golden_path("config/printed_configuration.yaml")
    entries = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert len(entries) == 453

    tree = default_config()
    tree.merge_from_file(path)
    assert (tree.local_rank, tree.num_gpus) == (0, 1)
    values, expected = flatten(tree), merged(GOLDG)
    assert set(entries) <= set(values)
    assert {name: values[name] for name in expected if values[name] != expected[name]} == {
        "TEST.IMS_PER_BATCH": 1,
        "TEST.EVAL_TASK": "detection",
        "OUTPUT_DIR": "./output",
        "PATHS_CATALOG": "/home/user/GLIP/maskrcnn_benchmark/config/paths_catalog.py",
    }
    dumped = default_config()
    dumped.merge_from_other_cfg(yaml.safe_load(tree.dump()))
    assert flatten(dumped) == values
