"""PASCAL VOC folders and pictures without objects."""

import pytest
from data_files import write_coco_toy
from PIL import Image

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import build_datasets, make_data_loader
from maskrcnn_benchmark.data.datasets import Background, PascalVOCDataset

OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_picture(folder, name, objects, size=(100, 80)):
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (30, 60, 90)).save(folder / "JPEGImages" / f"{name}.jpg")
    body = "".join(OBJECT.format(*item) for item in objects)
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{head}{body}</annotation>")


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "VOC2007"
    write_picture(folder, "000005", [("dog", 0, 1, 1, 50, 40), ("Person", 1, 11, 21, 100, 80)])
    write_picture(folder, "000007", [("tvmonitor", 0, 5, 6, 60, 90)], size=(60, 90))
    (folder / "ImageSets/Main/trainval.txt").write_text("000005\n000007  1\n\n")
    return folder


def test_boxes_count_from_zero_and_difficult_ones_are_left_out(voc):
    _, target, index = PascalVOCDataset(voc, "trainval")[0]
    assert index == 0 and target.size == (100, 80) and target.mode == "xyxy"
    assert target.bbox.tolist() == [[0, 0, 49, 39]] and target.get_field("labels").tolist() == [12]


def test_difficult_boxes_on_request(voc):
    _, target, _ = PascalVOCDataset(voc, "trainval", use_difficult=True)[0]
    assert target.bbox.tolist() == [[0, 0, 49, 39], [10, 20, 99, 79]]
    assert target.get_field("labels").tolist() == [12, 15]
    assert target.get_field("difficult").tolist() == [False, True]


def test_records_and_names(voc):
    dataset = PascalVOCDataset(voc, "trainval")
    assert dataset.get_img_info(1) == {"height": 90, "width": 60, "id": "000007"}
    assert dataset.id_to_img_map == {0: "000005", 1: "000007"}
    assert len(dataset.categories()) == 20 and dataset.map_class_id_to_class_name(20) == "tvmonitor"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", "000005.xml is not valid XML"),
        ("<annotation></annotation>", "000005.xml: <annotation> has no <size/width>"),
    ],
)
def test_broken_files_are_named(voc, content, message):
    (voc / "Annotations/000005.xml").write_text(content)
    with pytest.raises(ValueError, match=message):
        PascalVOCDataset(voc, "trainval").get_img_info(0)


def test_unknown_class_and_missing_split(voc):
    write_picture(voc, "000005", [("unicorn", 0, 1, 1, 5, 5)])
    with pytest.raises(ValueError, match="000005 .* unknown class 'unicorn'"):
        PascalVOCDataset(voc, "trainval")[0]
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        PascalVOCDataset(voc, "test")


@pytest.fixture
def cfg(bert_vocabulary):
    node = default_config()
    node.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    return node


def test_through_the_loader(cfg, voc):
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MIN_SIZE_TRAIN = 80
    cfg.DATASETS.REGISTER.voc_2007 = CfgNode({"data_dir": str(voc), "split": "trainval"})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("voc_2007",)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.IMS_PER_BATCH = 1, 2, 1
    assert [len(target) for _, targets, *_ in make_data_loader(cfg) for target in targets] == [1, 1]
    (loader,) = make_data_loader(cfg, is_train=False)
    assert [target.get_field("labels").tolist() for _, targets, *_ in loader for target in targets] == [[12, 15], [20]]


def test_pictures_without_objects(cfg, tmp_path):
    cfg.DATASETS.REGISTER.toy_bg = CfgNode({"img_dir": str(tmp_path), "ann_file": str(write_coco_toy(tmp_path))})
    cfg.DATASETS.TEST = ("toy_bg",)
    (dataset,) = build_datasets(cfg, is_train=False)
    assert isinstance(dataset, Background) and dataset.ids == [2, 5, 9] and dataset.get_img_info(0)["height"] == 80
    image, target, index = dataset[1]
    assert image.shape == (3, 800, 1000) and index == 1
    assert len(target) == 0 and target.get_field("labels").tolist() == [] and target.size == (1000, 800)
