"""Detection data as TSV files and back, and the command that does it."""

import argparse
import json

import pytest
from data_files import write_coco_toy
from tsv_files import png, write_detection_tsv

from maskrcnn_benchmark.cli.data_tsv import add_actions
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.image_file import BrokenImage
from maskrcnn_benchmark.data.datasets.od_tsv import ODTSVDataset
from maskrcnn_benchmark.data.tsv_conversion import coco_to_tsv, tsv_to_coco


def change(path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def ordered(content, key: str) -> list:
    return sorted(content[key], key=lambda record: record["id"])


def test_both_forms_give_the_same_items(tmp_path):
    annotations = write_coco_toy(tmp_path)
    plain = COCODataset(annotations, tmp_path, remove_images_without_annotations=False)
    packed = ODTSVDataset(coco_to_tsv(annotations, tmp_path, tmp_path / "tsv"))
    assert len(plain) == len(packed) == 3 and packed.categories() == plain.categories()
    for index in range(3):
        (image, target, _), (other_image, other, *_) = plain[index], packed[index]
        assert image.tobytes() == other_image.tobytes() and target.bbox.equal(other.bbox)
        assert target.get_field("labels").equal(other.get_field("labels"))
        assert packed.get_img_info(index)["height"] == plain.get_img_info(index)["height"]
        assert packed.tsv.key(index) == str(plain.ids[index])


def test_there_and_back_again(tmp_path, caplog):
    annotations = write_coco_toy(tmp_path)

    def awkward(content):
        content["annotations"][0]["bbox"] = [10.1, 10.7, 30.3, 0.25]
        content["annotations"][1] |= {"area": 12.5, "segmentation": [[1, 2, 3, 4, 5, 6]]}
        content["images"][0]["licence"] = 3

    change(annotations, awkward)
    back = tsv_to_coco(coco_to_tsv(annotations, tmp_path, tmp_path / "tsv"), tmp_path / "back")
    assert "'segmentation' of 1 annotations" in caplog.text
    before, after = json.loads(annotations.read_text()), json.loads(back.read_text())
    del before["annotations"][1]["segmentation"]
    assert after["categories"] == before["categories"]
    assert ordered(after, "images") == ordered(before, "images")
    assert ordered(after, "annotations") == ordered(before, "annotations")
    for record in before["images"]:
        name = record["file_name"]
        assert (back.parent / "images" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_foreign_dataset_gets_names_and_numbers(tmp_path):
    path = write_detection_tsv(tmp_path)
    content = json.loads(tsv_to_coco(path, tmp_path / "out").read_text())
    assert [(record["id"], record["file_name"]) for record in content["images"]] == [
        (7, "7.png"), (8, "8.png"), (9, "9.png"),
    ]  # fmt: skip
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "hot_dog"}, {"id": 3, "name": "bird"}]
    first = content["annotations"][0]
    assert (first["id"], first["bbox"], first["area"], first["iscrowd"]) == (1, [10, 10, 30, 30], 900, 0)
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2, 3, 4]
    assert (tmp_path / "out" / "images" / "8.png").read_bytes() == png(10)


def test_a_repeated_row_is_written_once(tmp_path):
    (tmp_path / "list.tsv").write_text("2\n0\n2\n0\n")
    content = json.loads(tsv_to_coco(write_detection_tsv(tmp_path, linelist="list.tsv"), tmp_path / "out").read_text())
    assert [record["id"] for record in content["images"]] == [9, 7] and len(content["annotations"]) == 2


def test_file_names_stay_in_the_folder(tmp_path):
    annotations = write_coco_toy(tmp_path)
    descriptor = coco_to_tsv(annotations, tmp_path, tmp_path / "tsv")
    labels = descriptor.parent / "label.tsv"
    labels.write_text(labels.read_text().replace('"2.png"', '"../2.png"'))
    (descriptor.parent / "label.lineidx").unlink()
    with pytest.raises(ValueError, match=r"'\.\./2\.png'"):
        tsv_to_coco(descriptor, tmp_path / "out")
    assert not (tmp_path / "out" / "2.png").exists() and not (tmp_path / "out" / "instances.json").exists()


def test_mistakes_are_named_and_leave_no_descriptor(tmp_path):
    annotations = write_coco_toy(tmp_path)
    (tmp_path / "9.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"9\.png"):
        coco_to_tsv(annotations, tmp_path, tmp_path / "tsv")
    assert not (tmp_path / "tsv" / "data.yaml").exists()
    change(annotations, lambda content: content["categories"][1].update(name="cat"))
    with pytest.raises(ValueError, match="'cat' names several categories"):
        coco_to_tsv(annotations, tmp_path, tmp_path / "tsv")


@pytest.mark.parametrize("box", [None, [1, 2, 3], ["1", 2, 3, 4]])
def test_boxes_that_are_none_are_named(tmp_path, box):
    annotations = write_coco_toy(tmp_path)
    change(annotations, lambda content: content["annotations"][0].update(bbox=box))
    with pytest.raises(ValueError, match=r"annotation \d+ of image \d+: .* is no box of four numbers"):
        coco_to_tsv(annotations, tmp_path, tmp_path / "tsv")


def test_pictures_without_a_size_are_named(tmp_path):
    annotations = write_coco_toy(tmp_path)
    change(annotations, lambda content: [record.pop("width") for record in content["images"]])
    assert coco_to_tsv(annotations, tmp_path, tmp_path / "tsv").exists(), "it is read from the picture"
    (tmp_path / "9.png").write_text("no picture")
    with pytest.raises(BrokenImage, match=r"cannot read image .*9\.png: it is of no known picture format"):
        coco_to_tsv(annotations, tmp_path, tmp_path / "other")


def test_commands(tmp_path, capsys):
    annotations = write_coco_toy(tmp_path)
    parser = argparse.ArgumentParser()
    add_actions(parser.add_subparsers())
    packed, plain = tmp_path / "tsv", tmp_path / "plain"
    for line in (
        ["to-tsv", str(annotations), "--images", str(tmp_path), "--out", str(packed)],
        ["from-tsv", str(packed / "data.yaml"), "--out", str(plain)],
    ):
        args = parser.parse_args(line)
        assert args.run_action(args) == 0
        with pytest.raises(FileExistsError, match="is there already"):
            args.run_action(args)
    assert len(json.loads((plain / "instances.json").read_text())["images"]) == 3
    assert str(plain / "instances.json") in capsys.readouterr().out
