import re

import pytest
from config_tools import OPEN_GROUPS, REPOSITORY, flatten, recorded_types

from maskrcnn_benchmark.config import cfg, default_config
from maskrcnn_benchmark.config.added_keys import ADDED_KEYS
from maskrcnn_benchmark.config.deprecated_keys import DEPRECATED_KEYS, OUT_OF_SCOPE
from maskrcnn_benchmark.config.loading import CfgNode


def node_at(name: str):
    node = default_config()
    for part in name.split("."):
        node = node[part]
    return node


@pytest.mark.parity
def test_every_key_has_the_recorded_type_and_default():
    recorded = recorded_types()
    groups = {name: entry for name, entry in recorded.items() if entry["type"] == "CfgNode"}
    leaves = {name: entry for name, entry in recorded.items() if entry["type"] != "CfgNode"}
    assert {name for name, entry in groups.items() if entry["new_allowed"]} == set(OPEN_GROUPS)
    for name, entry in groups.items():
        assert isinstance(node_at(name), CfgNode), name
        assert node_at(name).is_new_allowed() == entry["new_allowed"], name

    added = {key.name for key in ADDED_KEYS}
    values = flatten(default_config())
    assert set(values) - added - set(OPEN_GROUPS) == set(leaves)
    assert all(values[name] == {} for name in OPEN_GROUPS)
    for name, entry in leaves.items():
        assert type(node_at(name)).__name__ == entry["type"], name
        if name != "PATHS_CATALOG":  # the folder of the package
            assert values[name] == entry["value"], name


def test_added_keys_stand_in_one_table():
    recorded = recorded_types()
    assert len({key.name for key in ADDED_KEYS}) == len(ADDED_KEYS)
    for key in ADDED_KEYS:
        assert key.name not in recorded
        assert node_at(key.name) == key.default
        assert key.meaning.endswith(".")


def code_beside_the_configuration() -> str:
    files = [path for path in (REPOSITORY / "maskrcnn_benchmark").rglob("*.py") if path.parent.name != "config"]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_every_added_key_is_read():
    code = code_beside_the_configuration()
    for key in ADDED_KEYS:
        assert re.search(rf"\.{key.name.rsplit('.', 1)[-1]}\b", code), key.name


def test_a_key_that_nothing_reads_is_listed():
    """Setting it is not passed over in silence."""
    code = code_beside_the_configuration()
    listed = (*DEPRECATED_KEYS, *OUT_OF_SCOPE)
    unread = [
        name
        for name in flatten(default_config())
        if not re.search(rf"\b{name.rsplit('.', 1)[-1]}\b", code)
        and name != "PATHS_CATALOG"  # read by the configuration itself
        and not any(name == known or name.startswith(f"{known}.") for known in listed)
    ]
    assert unread == []


def test_a_key_cannot_be_defined_twice():
    with pytest.raises(ValueError, match="MODEL.WEIGHT is defined twice"):
        default_config().define("MODEL.WEIGHT", "")


def test_deprecated_keys_and_groups_exist():
    for name in (*DEPRECATED_KEYS, *OUT_OF_SCOPE):
        node_at(name)
    assert not set(DEPRECATED_KEYS) & set(OUT_OF_SCOPE)


def test_clones_do_not_share_values():
    clone = cfg.clone()
    clone.merge_from_list(["DATASETS.REGISTER.mine.img_dir", "x", "INPUT.PIXEL_MEAN", [0, 0, 0]])
    assert clone.DATASETS.REGISTER.mine.img_dir == "x"
    assert "mine" not in cfg.DATASETS.REGISTER
    assert cfg.INPUT.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
