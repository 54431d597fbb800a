import logging

import pytest

from maskrcnn_benchmark.config import ConfigFileError, cfg, path_search
from maskrcnn_benchmark.config.catalog_file import BUILT_IN, load_catalog, load_dataset_catalog
from maskrcnn_benchmark.config.paths_catalog import ALTERNATIVES, DATASETS, NAME_RULES, TYPES, type_from_name
from maskrcnn_benchmark.utils.model_zoo import PUBLISHED

PATH_FIELDS = {field for kind in TYPES.values() for field in kind.paths}

# The factory of every built-in name, as the original resolves it.
FACTORIES = {
    "MixedDataset": ["mixed_train", "mixed_train_no_coco"],
    "FlickrDataset": ["flickr30k_train", "flickr30k_val", "flickr30k_test"],
    "RefExpDataset": ["refexp_all_val"],
    "GQADataset": ["gqa_val"],
    "PhrasecutDetection": ["phrasecut_train"],
    "CocoDetectionTSV": [
        "coco_dt_train", "COCO_odinw_train_8copy_dt_train", "COCO_odinw_val_dt_train", "lvisv1_dt_train",
        "LVIS_odinw_train_8copy_dt_train", "object365_dt_train", "object365_odinw_2copy_dt_train",
        "imagenetod_train_odinw_2copy_dt", "oi_train_odinw_dt", "vg_dt_train", "vg_odinw_clipped_8copy_dt_train",
        "vg_vgoi6_clipped_8copy_dt_train",
    ],
    "ODTSVDataset": ["objects365_odtsv_train", "objects365_odtsv_val"],
    "CocoGrounding": ["coco_grounding_train", "lvis_grounding_train"],
    "COCODataset": [
        "lvis_val", "coco_2017_train", "coco_2017_val", "coco_2017_test", "coco_2014_train", "coco_2014_val",
        "coco_2014_minival",
    ],
}  # fmt: skip


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A fresh catalogue, and a working directory in which every file of the built-in datasets exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET", raising=False)
    monkeypatch.setattr(path_search, "REPOSITORY_ROOT", tmp_path)
    for entry in DATASETS.values():
        for field in PATH_FIELDS & set(entry):
            path = tmp_path / "DATASET" / entry[field]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir(exist_ok=True)
    return load_catalog(cfg.PATHS_CATALOG).DatasetCatalog


def test_every_built_in_name_has_its_factory(catalog):
    assert sorted(name for names in FACTORIES.values() for name in names) == sorted(DATASETS)
    for factory, names in FACTORIES.items():
        for name in names:
            found = catalog.get(name)
            assert found["factory"] == factory, name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("coco_2017_val", {"root": "coco/val2017", "ann_file": "coco/annotations/instances_val2017.json"}),
        (
            "coco_grounding_train",
            {"img_folder": "coco/train2017", "ann_file": "coco/annotations/instances_train2017.json"},
        ),
        ("coco_2017_test", {"root": "coco/test2017", "ann_file": "coco/annotations/image_info_test-dev2017.json"}),
        ("lvis_val", {"root": "coco", "ann_file": "coco/annotations/lvis_od_val.json"}),
        (
            "mixed_train_no_coco",
            {
                "img_folder_coco": "coco/train2014",
                "img_folder_vg": "gqa/images",
                "ann_file": "mdetr_annotations/final_mixed_train_no_coco.json",
            },
        ),
        (
            "flickr30k_val",
            {
                "img_folder": "flickr30k/flickr30k_images/val",
                "ann_file": "mdetr_annotations/final_flickr_separateGT_val.json",
                "is_train": False,
            },
        ),
        ("object365_dt_train", {"yaml_file": "Objects365/objects365_train_vgoiv6.cas2000.yaml"}),
    ],
)
def test_arguments_are_paths_under_the_first_root(catalog, name, arguments):
    found = catalog.get(name)["args"]
    assert found == {key: f"./DATASET/{value}" if isinstance(value, str) else value for key, value in arguments.items()}


def test_built_in_names_get_the_same_type_from_the_original_rules():
    """Dropping `type` from any built-in entry changes nothing: the rules are the original's."""
    for name, entry in DATASETS.items():
        assert type_from_name(name, {key: entry[key] for key in entry if key != "type"}) == entry["type"], name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forest_bg", "background"),
        ("train_grounding", "grounding"),
        ("my_mixed_grounding", "mixed"),
        ("flickr_dt", "flickr"),
        ("lvis_evaluation_mini_val", "lvis"),
        ("val", "coco"),
        ("bing_caption_3_train", "caption"),
        ("a_grounding_b", "grounding"),
    ],
)
def test_rules_are_tried_in_order(name, kind):
    assert type_from_name(name, {}) == kind


def test_voc_needs_a_split():
    assert type_from_name("voc_2007", {"data_dir": "x", "split": "val"}) == "voc"
    assert type_from_name("voc_2007", {"img_dir": "x"}) == "coco"


def test_only_accidental_matches_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        for name in ("val", "train_grounding", "lvis_evaluation_val", "forest_bg"):
            type_from_name(name, {})
        assert not caplog.records
        type_from_name("commixed_val", {})
    assert "'commixed_val' is read as MixedDataset because its name contains 'mixed'" in caplog.text


def test_registered_entries(catalog):
    entry = {"img_dir": "coco/val2017", "ann_file": "coco/annotations/instances_val2017.json"}
    catalog.set("mine", entry)
    catalog.set("mine_grounding", entry)
    catalog.set("gqa_like", {**entry, "type": "coco"})
    catalog.set("renamed", {"img_folder": entry["img_dir"], "ann_file": entry["ann_file"], "type": "modulated"})
    catalog.set("other_grounding", entry | {"is_train": True})
    assert catalog.get("other_grounding") == catalog.get("mine_grounding"), "as the original's entries have it"
    assert catalog.get("mine")["factory"] == "COCODataset"
    assert catalog.get("mine_grounding")["factory"] == "CocoGrounding"
    assert catalog.get("gqa_like")["factory"] == "COCODataset"
    assert catalog.get("renamed") == {
        "factory": "ModulatedDataset",
        "args": {
            "img_folder": "./DATASET/coco/val2017",
            "ann_file": "./DATASET/coco/annotations/instances_val2017.json",
        },
    }
    with pytest.raises(KeyError):
        load_catalog(cfg.PATHS_CATALOG).DatasetCatalog.get("mine")  # registrations belong to one loader


def test_suffix_turns_a_built_in_dataset_into_captions(catalog):
    assert catalog.get("coco_2017_train_grounding")["factory"] == "CocoGrounding"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "coc", "img_dir": "a"}, "has type 'coc'; known types are coco, voc"),
        ({"img_dir": "a", "ann_file": "b", "is_trian": True}, "unknown field 'is_trian'; known: img_dir, ann_file"),
        ({"img_dir": "coco"}, "needs the field 'ann_file'"),
    ],
)
def test_wrong_entries_are_explained(catalog, entry, message):
    catalog.set("mine", entry)
    with pytest.raises(ValueError, match="dataset 'mine'") as raised:
        catalog.get("mine")
    assert message in str(raised.value)


def test_parts_of_a_set_of_captions(catalog, tmp_path):
    """The set itself was never published; a user's own one is described once for all parts."""
    with pytest.raises(ValueError, match="bing_caption_0_train"):
        catalog.get("bing_caption_0_train")
    entry = {"yaml_path": str(tmp_path), "yaml_name": "all", "yaml_name_no_coco": "some", "type": "caption"}
    catalog.set("bing_caption_train", entry)
    for part, coco in ((0, "all"), (7, "all"), (7, "some")):
        (tmp_path / f"{coco}.{part}.yaml").touch()
        name = f"bing_caption_{part}_train" + ("_no_coco" if coco == "some" else "")
        expected = {"factory": "CaptionTSV", "args": {"yaml_file": str(tmp_path / f"{coco}.{part}.yaml")}}
        assert catalog.get(name) == expected
    catalog.set("web_caption_3", entry)
    with pytest.raises(FileNotFoundError, match=r"all\.3\.yaml"):
        catalog.get("web_caption_3")
    catalog.set("web_caption", entry)
    with pytest.raises(ValueError, match="as in bing_caption_0_train"):
        catalog.get("web_caption")


def test_unknown_name_and_missing_file(catalog):
    with pytest.raises(ValueError, match="unknown dataset 'coco_2017_vall'; did you mean 'coco_2017_val'"):
        catalog.get("coco_2017_vall")
    catalog.set("mine", {"img_dir": "nowhere", "ann_file": "nothing.json"})
    with pytest.raises(FileNotFoundError, match="Cannot find nowhere"):
        catalog.get("mine")


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_plain_json_stands_in_for_missing_files(catalog, tmp_path, name):
    """Nobody has to build TSV files, nor to rewrite those of LVIS."""
    published = catalog.get(name)
    entry = ALTERNATIVES[name]
    (tmp_path / "DATASET" / entry["ann_file"]).unlink(missing_ok=True)
    for file in published["args"].values():
        if file.endswith((".yaml", ".json")):
            (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match="neither as published nor as plain JSON") as raised:
        catalog.get(name)
    assert "in ['./', './DATASET', './OUTPUT', './data', './MODEL']" in str(raised.value)
    assert str(raised.value).count("Cannot find") == 2
    (tmp_path / "DATASET" / entry["img_dir"]).mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / entry["ann_file"]).parent.mkdir(parents=True)
    (tmp_path / "data" / entry["ann_file"]).touch()
    found = catalog.get(name)
    assert found["factory"] == {"CocoDetectionTSV": "CocoDetectionJson", "ODTSVDataset": "COCODataset"}.get(
        published["factory"], published["factory"]
    )
    assert found["args"]["ann_file"] == f"./data/{entry['ann_file']}"


def test_registered_json_under_a_name_of_tsv_files(catalog):
    entry = {"img_dir": "coco/val2017", "ann_file": "coco/annotations/instances_val2017.json"}
    for name in ("object365_dt_train", "my_openimages_dt"):
        catalog.set(name, entry)
        assert catalog.get(name)["factory"] == "CocoDetectionJson"
    catalog.set("object365_dt_train", {**entry, "ann_file": "nothing.json"})
    with pytest.raises(FileNotFoundError, match=r"^Cannot find nothing\.json"):
        catalog.get("object365_dt_train")


def test_catalogue_of_another_installation(caplog):
    with caplog.at_level(logging.WARNING):
        module = load_catalog("/home/user/GLIP/maskrcnn_benchmark/config/paths_catalog.py")
    assert module.__file__ == str(BUILT_IN)
    assert "using the catalogue of this installation" in caplog.text


def test_own_catalogue_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("class DatasetCatalog:\n    name = 'mine'\n", encoding="utf-8")
    assert load_catalog(str(path)).DatasetCatalog.name == "mine"
    with pytest.raises(ConfigFileError, match="missing.py"):
        load_catalog(str(tmp_path / "missing.py"))
    for text, message in (
        ("import nothing_of_the_kind", "cannot be executed: ModuleNotFoundError: No module named 'nothing_of_the_kind"),
        ("def (", "cannot be executed: SyntaxError: invalid syntax"),
        ("DataSetCatalog = 1", "has no class DatasetCatalog"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigFileError, match=f"PATHS_CATALOG .*{message}"):
            load_dataset_catalog(str(path))


def test_catalogue_of_weights():
    models = load_catalog(cfg.PATHS_CATALOG).ModelCatalog
    assert {models.get(name) for name in models.MODELS} <= set(PUBLISHED)
    with pytest.raises(ValueError, match="catalog://ImageNetPretrained/MSRA/R-50; known: GLIP-T-A"):
        models.get("ImageNetPretrained/MSRA/R-50")


def test_every_rule_names_a_type():
    assert {rule.type for rule in NAME_RULES} <= set(TYPES)
