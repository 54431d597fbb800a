from config_tools import REPOSITORY

from maskrcnn_benchmark.config.path_search import SEARCH_PATH
from maskrcnn_benchmark.config.paths_catalog import DATASETS
from maskrcnn_benchmark.config.public_data import ODINW_ARCHIVES, PUBLIC_SETS
from maskrcnn_benchmark.utils.model_zoo import PUBLISHED

TEXT = (REPOSITORY / "DATA.md").read_text(encoding="utf-8")


def test_every_public_dataset_is_described():
    shared_rows = {"flickr30k_val": "`_val`", "flickr30k_test": "`_test`"}
    for name, entry in DATASETS.items():
        if entry["type"] in ("dt", "odtsv"):
            assert f"`{entry['yaml_file'].split('/')[0]}/`" in TEXT, name
        else:
            assert f"`{name}`" in TEXT or shared_rows[name] in TEXT, name


def test_every_search_root_is_listed():
    assert ", ".join(f"`{root}`" for root in SEARCH_PATH) in TEXT


def test_every_published_weight_is_listed():
    for name in PUBLISHED:
        assert f"`{name}`" in TEXT


def test_every_public_download_is_listed():
    for name in PUBLIC_SETS:
        assert f"`{name}`" in TEXT or name.removeprefix("odinw/") in ODINW_ARCHIVES, name
    assert all(name in TEXT for name in ODINW_ARCHIVES)


def test_every_configuration_it_names_exists():
    for word in TEXT.split("`"):
        if word.startswith("configs/") and "{" not in word:
            assert (REPOSITORY / word).exists(), word
