"""``glip data check`` on small datasets with one fault each."""

import base64
import copy
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.cli import console
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.data.annotated_boxes import annotated_boxes
from maskrcnn_benchmark.data.inspection import box_problems, caption_problems, inspect_dataset
from maskrcnn_benchmark.data.worker_errors import WorkerLost
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

SIZE = (100, 80)
CAPTION = "a red ball beside the blue cube"
NAMES = {3: "red ball", 7: "blue cube", 9: "kite"}


def detection() -> dict:
    """Three pictures with a ball and a cube each."""
    boxes = {3: [10, 10, 30, 20], 7: [50, 5, 50, 75]}
    annotations = [
        {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for image in (1, 2, 3)
        for category, box in boxes.items()
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in (1, 2, 3)],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations)],
    }


def grounding() -> dict:
    """The same pictures with a caption that names both things."""
    content = detection()
    spans = {3: [[0, 10]], 7: [[18, 31]]}
    for image in content["images"]:
        image["caption"] = CAPTION
    for annotation in content["annotations"]:
        annotation["tokens_positive"] = copy.deepcopy(spans[annotation["category_id"]])
    return content


class Folder:
    """A working folder with pictures; `check` writes the annotations and runs the command on them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]):
        self.path = path
        self.capsys = capsys
        for number in (1, 2, 3):
            Image.new("RGB", SIZE, (60 * number, 100, 50)).save(path / f"{number}.png")

    def check(self, kind: str, content: dict | str, *words: str, entry: dict | None = None) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        text = content if isinstance(content, str) else json.dumps(content)
        (self.path / "ann.json").write_text(text, encoding="utf-8")
        entry = entry or {"type": kind, "img_dir": ".", "ann_file": "ann.json"}
        phase = "TEST" if kind == "coco" else "TRAIN"
        (self.path / "cfg.yaml").write_text(
            json.dumps({
                "DATASETS": {"REGISTER": {"toy": entry}, phase: ["toy"], "SEPARATION_TOKENS": ". "},
                "MODEL": {"LANGUAGE_BACKBONE": {"TOKENIZER_TYPE": "scenes_bert"}},
            })
        )  # fmt: skip
        flags = ["--split", phase.lower(), "--workers", "0", "--out", "out"]
        code = main(["data", "check", *flags, "cfg.yaml", *words])
        return code, *self.capsys.readouterr()

    def report(self) -> dict:
        return json.loads((self.path / "out/toy.json").read_text(encoding="utf-8"))

    def counts(self) -> dict[str, int]:
        return {kind: problem["count"] for kind, problem in self.report()["problems"].items()}


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET", raising=False)
    return Folder(tmp_path, capsys)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer("scenes_bert")


@pytest.mark.parametrize(("kind", "make"), [("coco", detection), ("grounding", detection), ("modulated", grounding)])
def test_good_data(folder, kind, make):
    code, shown, _ = folder.check(kind, make())
    assert code == console.OK, shown
    assert shown.startswith("toy: 3 items, 6 boxes; nothing wrong\n")
    assert "3 classes: red ball 3, blue cube 3\n" in shown and "1 without a box: kite\n" in shown
    assert folder.report() == {
        "dataset": "toy", "items": 3, "boxes": 6, "left_out": 0, "problems": {},
        "class_counts": {"red ball": 3, "blue cube": 3, "kite": 0},
    }  # fmt: skip


def test_names_that_cannot_be_told_apart(folder, caplog):
    content = detection()
    content["categories"][1]["name"] = "Red_ball"
    content["categories"][2]["name"] = "\u732b"
    assert folder.check("grounding", content)[0] == console.OK
    alike, unknown = caplog.messages
    assert "toy has 2 classes whose names are alike" in alike and "'red ball', 'Red ball'" in alike
    assert "toy has 1 class names with words that the text encoder does not know" in unknown and "\u732b" in unknown


@pytest.mark.parametrize("fault", ["missing", "cut", "not a picture"])
def test_broken_pictures(folder, fault):
    path = folder.path / "2.png"
    if fault == "missing":
        path.unlink()
    elif fault == "cut":
        Image.effect_noise(SIZE, 50).save(path)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.write_text("hello")
    code, shown, _ = folder.check("grounding", detection())
    assert code == console.PARTIAL_FAILURE
    assert folder.counts() == {"unreadable": 1} and folder.report()["boxes"] == 4
    assert "  items that cannot be read: 1\n    item 1: " in shown and "2.png" in shown


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([60, 10, 60, 20], "outside"),
        ([-5, 10, 30, 20], "outside"),
        ([10, 70, 30, 20], "outside"),
        ([10, 10, float("nan"), 20], "outside"),
        ([10, 10, 1, 20], "empty"),
        ([10, 10, 30, -4], "empty"),
    ],
)
@pytest.mark.parametrize(("type_", "make"), [("coco", detection), ("grounding", detection), ("modulated", grounding)])
def test_boxes_out_of_range(folder, box, kind, type_, make):
    content = make()
    content["annotations"][2]["bbox"] = box
    code, _, _ = folder.check(type_, content)
    assert code == console.PARTIAL_FAILURE
    assert folder.counts()[kind] == 1
    assert "item 1 (2.png): box" in folder.report()["problems"][kind]["examples"][0]


def test_boxes_may_touch_the_border():
    assert list(box_problems([[0, 0, 99, 79], [-1, -1, 100, 80]], SIZE)) == []


def test_crowds_do_not_count(folder):
    content = detection()
    content["annotations"][2] |= {"iscrowd": 1, "bbox": [-50, -50, 500, 500]}
    assert folder.check("grounding", content)[0] == console.OK


def test_pictures_of_another_size(folder):
    content = detection()
    content["images"][0]["width"] = 200
    assert folder.check("coco", content)[0] == console.PARTIAL_FAILURE
    assert folder.counts() == {"wrong_size": 1}


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([[10, 11]], "characters 10 to 11"),  # the blank behind "ball"
        ([[20, 90]], "characters 20 to 90 of a caption of 31"),
        ([[12, 4]], "characters 12 to 4"),
        ([], "1 boxes have no phrase"),
    ],
)
def test_phrases_without_tokens(folder, spans, said):
    content = grounding()
    content["images"][1]["caption"] = "a red ball  " + " " * 8 + "the cube !!!" if spans == [[10, 11]] else CAPTION
    content["annotations"][2]["tokens_positive"] = spans
    code, shown, _ = folder.check("modulated", content)
    assert code == console.PARTIAL_FAILURE
    assert any(said in text for text in folder.report()["problems"]["lost_phrase"]["examples"]), shown


def test_captions_over_the_limit(folder):
    code, shown, _ = folder.check("modulated", grounding(), "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", "6")
    assert code == console.PARTIAL_FAILURE
    assert folder.counts() == {"lost_phrase": 3, "long_caption": 3}
    assert "captions over the limit: 3\n" in shown and "tokens of 6: 'a red ball" in shown
    assert "'the blue cube' (characters 18 to 31)" in shown


def test_classes_beyond_the_caption(folder):
    """Where classes are sampled, boxes of a class that does not fit are dropped: reported once, without a warning."""
    words = ("DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING", "True", "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", "6")
    code, _, errors = folder.check("grounding", detection(), *words)
    assert code == console.PARTIAL_FAILURE and "dropped" not in errors
    assert folder.counts() == {"lost_box": 3}
    assert folder.report()["boxes"] == 3


def test_evaluation_phrases_are_checked(tokenizer):
    found = list(caption_problems(CAPTION, [[[0, 10]], [[2, 10], [40, 44]]], tokenizer, 256))
    assert [kind for kind, _ in found] == ["lost_phrase"] and "40 to 44" in found[0][1]


def test_a_category_that_the_list_lacks(folder):
    content = detection()
    content["annotations"][0]["category_id"] = 99
    assert folder.check("coco", content)[0] == console.PARTIAL_FAILURE
    assert "category 99" in folder.report()["problems"]["unreadable"]["examples"][0]


def test_pictures_without_boxes_are_left_out(folder):
    content = detection()
    content["annotations"] = content["annotations"][:2]
    code, shown, _ = folder.check("grounding", content)
    assert code == console.OK and "1 items, 2 boxes; 2 records left out" in shown


def test_contact_sheet(folder):
    folder.path.joinpath("2.png").unlink()
    folder.check("modulated", grounding())
    with Image.open(folder.path / "out/toy.png") as sheet:
        cell = sheet.width // 3
        colors = [sheet.getpixel((cell * column + 30, 360)) for column in range(3)]  # below the ball, left of the cube
    assert colors[0] == (60, 100, 50) and colors[1] == (255, 255, 255) and colors[2] == (180, 100, 50)


def test_workers_find_the_same(tokenizer):
    class Toy(torch.utils.data.Dataset):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            raise ValueError(f"picture {index} is broken")

    alone, shared = (inspect_dataset("toy", Toy(), tokenizer=tokenizer, workers=workers) for workers in (0, 2))
    assert alone == shared and alone.counts == {"unreadable": 7}
    assert alone.examples["unreadable"][6] == "item 6: picture 6 is broken"


def test_items_that_others_stand_in_for_are_left_out():
    class Toy(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            target = BoxList([[0, 0, 5, 5]], SIZE)
            target.add_field("labels", torch.tensor([1]))
            return Image.new("RGB", SIZE), target, max(index, 1)

    report = inspect_dataset("toy", Toy())
    assert (report.items, report.boxes, report.left_out) == (2, 2, 1) and report.is_clean


def test_a_killed_worker_is_named():
    class Toy(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost, match="data worker with process id"):
        inspect_dataset("toy", Toy(), workers=1)


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        ("{", (), "ann.json is not valid JSON"),
        ("[]", (), "ann.json is not in COCO format"),
        ({"images": []}, (), "dataset toy has no usable picture"),
        (None, ("DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        (None, ("DATASETS.TRAIN", "('coco_2017_train',)"), "coco/train2017"),
        (None, ("DATASETS.TRAIN", "('toi',)"), "did you mean 'toy'?"),
        (None, ("DATASETS.TRAINS", "()"), "DATASETS.TRAINS"),
        (None, ("DATASETS.TRAIN",), "pairs KEY VALUE"),
        (None, ("--workers", "-1"), "--workers -1"),
    ],
)
def test_mistakes_are_one_line(folder, content, words, said):
    code, _, errors = folder.check("grounding", detection() if content is None else content, *words)
    assert code == console.BAD_INPUT
    assert errors.count("\n") == 1 and said in errors


def test_missing_files_are_told_before_a_tokenizer_is_fetched(folder):
    words = ("DATASETS.TRAIN", "('coco_2017_train',)", "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", "./nowhere")
    code, _, errors = folder.check("grounding", detection(), *words)
    assert code == console.BAD_INPUT and "coco/train2017" in errors


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("bbox", "image 1 has boxes that are not four numbers: None, [50, 5, 50, 75]"),
        ("image_id", "annotation file ./ann.json is not in COCO format: an entry has no 'image_id'"),
    ],
)
def test_malformed_annotations_are_one_line(folder, entry, message):
    content = detection()
    del content["annotations"][0][entry]
    code, _, errors = folder.check("grounding", content)
    assert (code, errors) == (console.BAD_INPUT, f"glip: error: {message}\n")


@pytest.mark.parametrize("action", ["check", "download"])
def test_help_does_not_load_torch(action):
    code = "import sys; from maskrcnn_benchmark.cli.main import main; main(['data', sys.argv[1], '--help'])"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    result = subprocess.run([sys.executable, "-c", check, action], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and f"glip data {action}" in result.stdout, result
    assert result.stdout.rstrip().endswith("False")


def test_boxes_of_tsv_rows():
    class Rows:
        labels = ()
        content: object = None

        def label(self, index):
            return self.content

    class Toy:
        tsv = Rows()

    objects = [{"class": "ball", "rect": [1, 2, 3, 4]}]
    for content in (objects, {"objects": objects}, {"bboxes": [[1, 2, 3, 4]]}, {"bboxes": [[[1, 2, 3, 4]]]}):
        Toy.tsv.content = content
        assert annotated_boxes(Toy(), 0) == [[1.0, 2.0, 3.0, 4.0]]


def test_tsv_files(folder):
    """One good row and one whose box passes the border."""
    buffer = io.BytesIO()
    Image.new("RGB", SIZE).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    rows = [[{"class": "red ball", "rect": box}] for box in ([1, 1, 50, 50], [1, 1, 150, 50])]
    (folder.path / "images.tsv").write_text("".join(f"{key}\t{picture}\n" for key in range(2)))
    (folder.path / "label.tsv").write_text("".join(f"{key}\t{json.dumps(row)}\n" for key, row in enumerate(rows)))
    (folder.path / "map.json").write_text('{"red ball": 1, "kite": 2}')
    (folder.path / "toy.yaml").write_text("img: images.tsv\nlabel: label.tsv\nlabelmap: map.json\n")
    entry = {"type": "odtsv", "yaml_file": "toy.yaml"}
    code, shown, _ = folder.check("odtsv", {}, entry=entry)
    assert code == console.PARTIAL_FAILURE, shown
    assert folder.counts() == {"outside": 1}
    assert folder.report()["class_counts"] == {"red ball": 2, "kite": 0}
