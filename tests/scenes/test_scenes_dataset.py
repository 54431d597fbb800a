"""The files of a scenes dataset: valid JSON of both styles, all or nothing on disk, and the fixed validation set."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.scenes import KINDS, NOVEL_PAIRS, generate_scene, read_scene_statistics, scene_statistics
from maskrcnn_benchmark.scenes.dataset import build_grounding, build_instances, build_pair_instances, write_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "scenes"
COUNT = 12


def load(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def novel(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("scenes") / "novel", "novel", COUNT, 4, workers=2)


@pytest.fixture(scope="module")
def validation() -> tuple[dict, dict]:
    return tuple(
        json.loads(gzip.decompress((GOLDEN / f"val_{n}.json.gz").read_bytes())) for n in ("instances", "grounding")
    )


def test_detection_json_is_valid_coco(novel):
    from pycocotools.coco import COCO

    coco = COCO(novel / "instances.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(KINDS)
    assert len(coco.getImgIds()) == COUNT
    for annotation in coco.loadAnns(coco.getAnnIds()):
        x, y, w, h = annotation["bbox"]
        assert annotation["area"] == w * h and annotation["iscrowd"] == 0
        assert x >= 0 and y >= 0 and x + w <= 640 and y + h <= 480
        attributes = annotation["attributes"]
        assert attributes["kind"] == coco.loadCats(annotation["category_id"])[0]["name"]
        assert set(attributes) >= {"color", "kind", "size", "texture", "visible_fraction", "occluded"}


def test_pictures_belong_to_the_records(novel):
    for record in load(novel / "instances.json")["images"]:
        with Image.open(novel / "images" / record["file_name"]) as picture:
            assert picture.size == (record["width"], record["height"]) == (640, 480)
            assert picture.mode == "RGB"
    assert len(list((novel / "images").iterdir())) == COUNT


def test_pairs_json(novel):
    pairs = load(novel / "instances_pairs.json")
    categories = {category["id"]: category for category in pairs["categories"]}
    flagged = {(c["color"], c["kind"]) for c in categories.values() if c["novel"]}
    assert flagged == NOVEL_PAIRS
    for record in pairs["images"]:
        present = {a["category_id"] for a in pairs["annotations"] if a["image_id"] == record["id"]}
        assert record["pairs"] == sorted(present)
        assert sum(categories[number]["novel"] for number in present) >= 2
    for annotation in pairs["annotations"]:
        attributes = annotation["attributes"]
        assert categories[annotation["category_id"]]["name"] == f"{attributes['color']} {attributes['kind']}"


def test_grounding_json(novel):
    instances = {a["id"]: a for a in load(novel / "instances.json")["annotations"]}
    grounding = load(novel / "grounding.json")
    records = {record["id"]: record for record in grounding["images"]}
    assert {record["original_img_id"] for record in records.values()} == set(range(1, COUNT + 1))
    spans_with_boxes = {number: set() for number in records}
    for annotation in grounding["annotations"]:
        record, thing = records[annotation["image_id"]], instances[annotation["instance_id"]]
        assert annotation["bbox"] == thing["bbox"] and annotation["category_id"] == 1
        assert thing["image_id"] == record["original_img_id"]
        ((begin, end),) = annotation["tokens_positive"]
        words = record["caption"][begin:end]
        assert words.endswith(f"{thing['attributes']['color']} {thing['attributes']['kind']}")
        spans_with_boxes[record["id"]].add((begin, end))
    for number, record in records.items():
        assert record["dataset_name"] == "scenes"
        assert record["caption_type"] in ("sentence", "list", "kinds")
        assert record["tokens_negative"] == [[0, len(record["caption"])]]
        assert [tuple(span) for (span,) in record["tokens_positive_eval"]] == sorted(spans_with_boxes[number])


def test_workers_do_not_change_the_result(novel, tmp_path):
    alone = write_dataset(tmp_path / "alone", "novel", COUNT, 4, workers=1)
    files = sorted(path.relative_to(novel) for path in novel.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert all((novel / name).read_bytes() == (alone / name).read_bytes() for name in files)


def test_existing_content_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_dataset(tmp_path, "val", 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    assert write_dataset(tmp_path / "new" / "set", "train", 1, 0).is_dir()
    (tmp_path / "empty").mkdir()
    write_dataset(tmp_path / "empty", "train", 1, 0, image_format="png")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == [
        "grounding.json",
        "images",
        "instances.json",
    ]
    assert [path.name for path in (tmp_path / "empty" / "images").iterdir()] == ["000000.png"]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(scenes):
        yield next(iter(scenes))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", "val", 3, 0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "'test'"),
        ({"count": 0}, "not 0"),
        ({"image_format": "bmp"}, "'bmp'"),
    ],
)
def test_bad_arguments_name_the_value(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "set", **({"split": "val", "count": 1, "seed": 0} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_command_writes_and_reports(tmp_path, capsys):
    out = tmp_path / "set"
    arguments = ["scenes", "--out", str(out), "--split", "val", "--num", "2", "--seed", "9", "--workers", "1"]
    assert main(arguments) == 0
    assert str(read_scene_statistics(out)) in capsys.readouterr().out
    assert main(arguments) != 0
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and str(out) in error[0]


def test_validation_set_statistics(validation):
    statistics = scene_statistics(*validation)
    assert statistics.scenes == 1000
    assert 5 <= statistics.min_objects and statistics.max_objects <= 15
    assert statistics.small_share >= 0.30
    assert statistics.occluded_share >= 0.30
    assert statistics.min_confusable >= 2
    assert statistics.kinds >= 40 and statistics.colors == 12
    assert statistics.phrases >= 2000


def test_validation_set_has_the_recorded_checksum():
    recorded = load(GOLDEN / "manifest.json")["sets"]["val"]["sha256"]
    for name in ("instances", "grounding"):
        content = gzip.decompress((GOLDEN / f"val_{name}.json.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == recorded[f"{name}.json"]


def test_generator_still_makes_the_validation_set(validation):
    """The first scenes, remade from the seed, have the recorded annotations and captions."""
    instances, grounding = validation
    scenes = [generate_scene(0, "val", index)[1] for index in range(40)]
    names = [record["file_name"] for record in instances["images"][:40]]
    for made, recorded in ((build_instances(scenes, names), instances), (build_grounding(scenes, names), grounding)):
        made = json.loads(json.dumps(made))
        assert made["categories"] == recorded["categories"]
        for part in ("images", "annotations"):
            assert made[part] == recorded[part][: len(made[part])]


@pytest.mark.slow
def test_whole_sets_have_the_recorded_checksums():
    for split, recorded in load(GOLDEN / "manifest.json")["sets"].items():
        scenes = [generate_scene(recorded["seed"], split, index)[1] for index in range(recorded["num"])]
        names = [f"{index:06d}.jpg" for index in range(recorded["num"])]
        for name, build in (
            ("instances.json", build_instances),
            ("grounding.json", build_grounding),
            ("instances_pairs.json", build_pair_instances),
        ):
            content = json.dumps(build(scenes, names), separators=(",", ":")) + "\n"
            assert hashlib.sha256(content.encode()).hexdigest() == recorded["sha256"][name], f"{split} {name}"


def test_statistics_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no annotations"):
        scene_statistics({"images": [], "annotations": []}, {"images": [], "annotations": []})
