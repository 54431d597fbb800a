"""`glip finetune` on a few pictures and the smallest real detector: what is chosen, written and said."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tiny_detector import make_text_folder, scramble, tiny_config
from tuning_data import change, write_split

from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.inference import plain_dataset
from maskrcnn_benchmark.engine.tuning import own_data, own_tuning
from maskrcnn_benchmark.engine.tuning.adapter import Adapter
from maskrcnn_benchmark.engine.tuning.finetune import TuningResult, checked_loaders
from maskrcnn_benchmark.engine.tuning.own_data import (
    TRAIN_SET,
    VALIDATION_SET,
    OwnData,
    plan_own_data,
    split_annotations,
)
from maskrcnn_benchmark.engine.tuning.own_tuning import predict_command, tune_on_own_data
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.utils.weight_files import save_weights

SMALL = ("INPUT.MIN_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64, "AUGMENT.MULT_MIN_SIZE_TRAIN", (64,))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with the configuration and the weights of a tiny detector."""
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_config(make_text_folder(folder / "text"), *SMALL, "MODEL.ATSS.INFERENCE_TH", 0.0, "MODEL.WEIGHT", "")
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    save_weights(scramble(build_detection_model(cfg), scale=0.05), folder / "model.safetensors")
    return folder


@pytest.fixture
def data(tmp_path):
    return write_split(tmp_path / "own", "photos", 8)


def own(data, model, tmp_path, **options) -> OwnData:
    return OwnData(data, data.with_suffix(""), tmp_path / "out", model=str(model), **options)


def command(data, model, out, *more):
    required = ["finetune", "--data", str(data), "--images", str(data.with_suffix("")), "--device", "cpu"]
    return [*required, "--model", str(model), "--output", str(out), "--iterations", "2", *more]


@pytest.mark.parametrize(
    ("mode", "more"), [("prompt", ("--cache-features", "--shots", "2")), ("linear", ()), ("full", ())]
)
def test_from_annotations_to_predictions(data, model, tmp_path, capsys, mode, more):
    """The printed command finds with the result what the detector with these weights finds."""
    out = tmp_path / "out"
    assert main(command(data, model, out, "--mode", mode, *more)) == 0
    shown = capsys.readouterr().out
    for text in (
        "classes:",
        "2: cup, dog",
        "NUM_CLASSES:",
        "learning rate:",
        "validation:",
        " before, ",
        "report.html",
    ):
        assert text in shown
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("AP over training", "AP by class", "<td>cup</td>", "What was chosen"))
    assert (out / "zero_shot" / "inference" / VALIDATION_SET / "report.html").is_file()
    printed = next(line for line in shown.splitlines() if line.startswith("use it with: "))
    words = shlex.split(printed.removeprefix("use it with: glip "))
    picture = data.with_suffix("") / "1.png"
    words[words.index("PICTURE")] = str(picture)
    assert main([*words, "--threshold", "0", "--output", str(tmp_path / "found"), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert record["info"]["prompt"] == ["cup. dog"]
    tuned = Detector.from_config_file(out / "config.yml", out / "model_best.pth", device="cpu")
    (wanted,) = tuned.predict(str(picture), ["cup", "dog"], threshold=0.0)
    found = [annotation["score"] for annotation in record["annotations"]]
    assert found == pytest.approx(wanted.scores.tolist(), abs=1e-3) and len(found) > 0
    assert sorted(path.name for path in out.glob("*.pth")) == ["model_best.pth", "model_final.pth"]
    if mode != "full":
        adapter = Adapter.load(out / "adapter.safetensors")
        assert adapter.vocabulary == ("cup", "dog") and adapter.base == str(model)
        assert str(out) not in str(adapter.config)  # no folder of this machine
    if more:
        assert json.loads((out / "few_shot_images.json").read_text())[TRAIN_SET]["shots"] == 2
        assert list((out / "features").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("classes", "option"),
    [
        (["cup", "dog"], ["--text", "cup. dog"]),
        (["disk 3.5", "dog"], ["--text", "disk 3.5. dog"]),
        (["St. Bernard", "dog"], ["--classes", "St. Bernard", "dog"]),
        (["cup, red"], ["--classes", "cup, red"]),
        (["-cup"], ["--text=-cup"]),
        (["-cup; red", "dog"], ["--classes=-cup; red", "--classes=dog"]),
    ],
)
def test_the_command_names_the_classes_as_they_are(data, model, tmp_path, classes, option):
    """A name may hold what separates the names of a text."""
    content = json.loads(data.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] <= len(classes)]
    data.write_text(json.dumps(content))
    full = own(data, model, tmp_path, mode="full")
    plan = plan_own_data(full)
    words = shlex.split(predict_command(full, plan, tmp_path / "model_best.pth"))
    assert words[words.index(option[0]) : words.index("--image")] == option
    assert plan.choices["prompt"] == ". ".join(classes)


def show_both_classes(content: dict) -> None:
    """A box of each class on every picture."""
    content["annotations"] = [
        {"id": 2 * image["id"] + category, "image_id": image["id"], "category_id": category,
         "bbox": [40 * category - 30, 5, 20, 20], "area": 400, "iscrowd": 0}
        for image in content["images"]
        for category in (1, 2)
    ]  # fmt: skip


def test_few_pictures_that_show_several_classes(data, model, tmp_path):
    """The pictures that are counted, and fill a batch, are those that are trained on."""
    content = json.loads(data.read_text())
    show_both_classes(content)
    data.write_text(json.dumps(content))
    for shots, seed in ((1, 0), (3, 0), (3, 7), (50, 0), (0, 0)):
        plan = plan_own_data(own(data, model, tmp_path / f"{shots} {seed}", mode="full", shots=shots, seed=seed))
        train = checked_loaders(plan.cfg).train.dataset
        assert plan.choices["pictures"].startswith(f"{len(train)} to train on")
        assert plan.cfg.SOLVER.IMS_PER_BATCH <= len(train) == min(shots or 6, 6)


def test_length_of_a_few_shot_training(data, model, tmp_path, monkeypatch):
    """It follows the classes and the shots, however few pictures show them."""
    content = json.loads(data.read_text())
    show_both_classes(content)
    data.write_text(json.dumps(content))
    monkeypatch.setattr(own_data, "FEWEST", 1)
    lengths = [
        plan_own_data(own(data, model, tmp_path / str(shots), shots=shots)).cfg.SOLVER.MAX_ITER for shots in (1, 2, 0)
    ]
    assert lengths == [20 * 2 // 1, 20 * 4 // 2, 20 * 6 // 2]


def test_one_picture_is_trained_on(data, model, tmp_path, capsys):
    content = json.loads(data.read_text())
    show_both_classes(content)
    data.write_text(json.dumps(content))
    assert main(command(data, model, tmp_path / "out", "--mode", "linear", "--shots", "1")) == 0
    assert "1 to train on, 1 of each class" in capsys.readouterr().out


def test_boxes_of_less_than_a_pixel_train_nothing(data, model, tmp_path):
    def shrink(annotations):
        for annotation in annotations:
            annotation["bbox"][2:] = [0.5, 0.5]

    change(data, annotations=shrink)
    with pytest.raises(ValueError, match=r"photos\.json': no picture to train on has a box of more than one pixel"):
        plan_own_data(own(data, model, tmp_path))


def told(capsys) -> list[str]:
    """What the command itself says, without the log."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("AP", "wrote ", "use it"))]


def test_the_same_command_again_does_nothing_anew(data, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(data, model, out, "--mode", "linear")) == 0
    first, written = told(capsys), (out / "model_final.pth").stat().st_mtime_ns
    assert main(command(data, model, out, "--mode", "linear")) == 0
    assert told(capsys) == first and (out / "model_final.pth").stat().st_mtime_ns == written


@pytest.mark.parametrize("loss", ["results", "best"])
def test_a_damaged_result_is_made_anew(data, model, tmp_path, capsys, loss):
    """A damaged results.json, and weights that were removed: what there is gets tested, without training anew."""
    out = tmp_path / "out"
    assert main(command(data, model, out, "--mode", "linear")) == 0
    first, written = told(capsys), (out / "model_final.pth").stat().st_mtime_ns
    if loss == "results":
        (out / "results.json").write_text("{")
    else:
        (out / "model_best.pth").unlink()
    assert main(command(data, model, out, "--mode", "linear")) == 0
    again = told(capsys)
    assert (out / "model_final.pth").stat().st_mtime_ns == written and len(again) == len(first)
    assert again == first or loss == "best"


def test_what_is_chosen(data, model, tmp_path):
    cfg, name, classes, choices = plan_own_data(own(data, model, tmp_path, mode="full"))
    assert (name, classes) == (str(model), ["cup", "dog"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.LANG_LR, cfg.SOLVER.WEIGHT_DECAY) == (5e-5, 5e-6, 0.05)  # two pictures
    assert cfg.MODEL.DYHEAD.NUM_CLASSES == 3 and cfg.DATASETS.DISABLE_SHUFFLE
    assert choices["prompt"] == "cup. dog" and "2 of 8 pictures" in choices["validation"]
    prompt = plan_own_data(own(data, model, tmp_path, mode="prompt", shots=1, device="cuda")).cfg.SOLVER
    assert (prompt.BASE_LR, prompt.WEIGHT_DECAY, prompt.IMS_PER_BATCH, prompt.USE_AMP) == (0.05, 0.25, 2, True)
    assert prompt.TUNING_HIGHLEVEL_OVERRIDE == "language_prompt_v2"


def test_options_for_other_data_are_not_taken_over(data, model, tmp_path):
    """A model that was fine-tuned before: of its configuration counts what describes the network."""
    cfg = default_config()
    cfg.merge_from_file(model / "config.yaml")
    cfg.DATASETS.OVERRIDE_CATEGORY, cfg.DATASETS.USE_OVERRIDE_CATEGORY = "[{'id': 1, 'name': 'bird'}]", True
    cfg.DATASETS.ADD_DET_PROMPT, cfg.DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING = True, True
    cfg.TEST.CHUNKED_EVALUATION, cfg.SOLVER.CACHE_FEATURES = 1, str(tmp_path)
    before = tmp_path / "before"
    shutil.copytree(model, before)
    (before / "config.yaml").write_text(cfg.dump())
    plan = plan_own_data(own(data, before, tmp_path, mode="full"))
    loaders = checked_loaders(plan.cfg)
    assert loaders.train.dataset.prompt.caption_in_order()[0] == plan.choices["prompt"] == "cup. dog"
    assert plan.cfg.TEST.CHUNKED_EVALUATION == -1 and not plan.cfg.SOLVER.CACHE_FEATURES


def test_a_rate_far_from_the_recipe(data, model, tmp_path, caplog):
    plan_own_data(own(data, model, tmp_path, rate=1e-4))
    assert "far from" not in caplog.text
    plan_own_data(own(data, model, tmp_path, rate=0.05))
    assert "learning rate 0.05 is far from 5e-05, with which full tuning usually works" in caplog.text


def test_no_class_is_set_aside_as_a_whole(data):
    """Of every seed: parts without common pictures, which together are all, and all classes to train on."""
    content = json.loads(data.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1 or a["image_id"] == 3]
    for seed in range(6):
        parts = split_annotations(content, seed)
        ids = [{image["id"] for image in part["images"]} for part in parts]
        assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 8 and ids[1]
        assert {a["category_id"] for a in parts[0]["annotations"]} == {1, 2}
        assert all(
            {a["image_id"] for a in part["annotations"]} <= known for part, known in zip(parts, ids, strict=True)
        )


BAD = {
    "an empty name": (lambda data: change(data, categories=lambda c: c[0].update(name=" ")), "is called ' '"),
    "a name twice": (lambda data: change(data, categories=lambda c: c[1].update(name="Cup")), "both called 'Cup'"),
    "no boxes": (lambda data: change(data, annotations=lambda a: a.clear()), "empty list 'annotations'"),
    "boxes of no number": (
        lambda data: change(data, annotations=lambda a: [one.update(bbox=[1, 2, float("nan"), 3]) for one in a]),
        "not four finite numbers|not finite|no usable picture",
    ),
    "one picture": (lambda data: change(data, annotations=lambda a: a.__delitem__(slice(1, None))), "give --val"),
    "no JSON": (lambda data: data.write_text("{") and data, "are no JSON"),
    "a list": (lambda data: data.write_text("[]") and data, "have no list 'images'"),
    "a batch of more than there is": (lambda data: data, "--batch-size 100 is more than the 6 pictures"),
    "a name of 80 tokens": (
        lambda data: change(data, categories=lambda c: c[0].update(name=" ".join(["star"] * 80))),
        "tokens, of which a prompt holds",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(data, model, tmp_path, capsys, case):
    spoil, message = BAD[case]
    more = ("--batch-size", "100") if "batch" in case else ()
    assert main(command(spoil(data), model, tmp_path / "out", "--mode", "prompt", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert any(part in error for part in message.split("|")), error


def test_bad_arguments(data, model, tmp_path, capsys):
    out = tmp_path / "out"
    for more, message in (
        (("--cache-features",), "--cache-features needs a frozen image encoder"),
        (("--lr", "-1"), "--lr -1"),
        (("--seed", str(2**70)), "give a number from 0 to"),
        (("--images", str(tmp_path / "nowhere")), "nowhere' is not there"),
        (("--val", str(tmp_path / "no.json")), "no.json"),
        (("--val-images", str(tmp_path)), "without --val"),
    ):
        assert main(command(data, model, out, *more)) == 2
        assert message in capsys.readouterr().err


def test_validation_of_other_classes(data, model, tmp_path, capsys):
    other = change(write_split(tmp_path / "other", "val", 3), categories=lambda c: c[0].update(name="bird"))
    more = ("--val", str(other), "--val-images", str(other.with_suffix("")))
    assert main(command(data, model, tmp_path / "out", *more)) == 2
    assert "classes that the training data do not name: 'bird'" in capsys.readouterr().err


def test_validation_on_training_pictures_is_told(data, model, tmp_path, caplog):
    other = write_split(tmp_path / "other", "val", 3)
    for path, message in ((data, "8 of 8 validation pictures are training pictures, too"), (other, "")):
        caplog.clear()
        plan_own_data(own(data, model, tmp_path, validation=path, validation_images=path.with_suffix("")))
        assert message in caplog.text and ("too good" in caplog.text) == bool(message)


def test_the_text_of_training_is_that_of_the_adapter_and_of_validation(data, model, tmp_path):
    """Whatever the order of the categories: a learnt prompt adds to the text position by position."""
    val = change(write_split(tmp_path / "other", "val", 3), categories=lambda c: c.reverse())
    change(data, categories=lambda c: (c.reverse(), c.append({"id": 0, "name": "things"})))
    more = ("--val", str(val), "--val-images", str(val.with_suffix("")), "--mode", "prompt")
    assert main(command(data, model, tmp_path / "out", *more)) == 0
    assert Adapter.load(tmp_path / "out" / "adapter.safetensors").prompts[0].caption == "cup. dog"
    cfg = default_config()
    cfg.merge_from_file(tmp_path / "out" / "config.yml")
    loaders = checked_loaders(cfg)
    assert loaders.train.dataset.prompt.caption_in_order()[0] == "cup. dog"
    assert list(plain_dataset(loaders.validation).categories().values()) == ["cup", "dog"]


def test_pictures_of_crowds_alone_are_not_trained_on(data, model, tmp_path):
    change(data, annotations=lambda a: [one.update(iscrowd=1) for one in a if one["image_id"] in (1, 2, 3)])
    plan = plan_own_data(own(data, model, tmp_path, mode="linear"))
    dataset = checked_loaders(plan.cfg).train.dataset
    assert set(dataset.ids) <= {4, 5, 6, 7, 8} and plan.choices["pictures"] == f"{len(dataset)} to train on"


def test_more_classes_than_a_prompt_holds(data, model, tmp_path):
    """A picture's prompt has all its classes and fits; the last classes of the list are trained like the first."""
    names = [f"thing number {number}" for number in range(30)]
    change(data, categories=lambda c: c.extend({"id": 3 + i, "name": n} for i, n in enumerate(names)))
    change(data, annotations=lambda a: [one.update(category_id=32) for one in a if one["category_id"] == 2])
    cfg, _, classes, choices = plan_own_data(own(data, model, tmp_path, mode="linear"))
    assert len(classes) == 32 and "are too many: the classes of a picture and up to" in choices["prompt"]
    dataset, language = checked_loaders(cfg).train.dataset, cfg.MODEL.LANGUAGE_BACKBONE
    tokenizer = build_tokenizer(language.TOKENIZER_TYPE)
    for index in range(len(dataset)):
        _, target, _ = dataset[index]
        assert len(tokenizer(target.get_field("caption"))["input_ids"]) <= language.MAX_QUERY_LEN
        assert len(target) and target.get_field("positive_map").any(1).all()
    with pytest.raises(ValueError, match="a learnt prompt belongs to one text; use --mode linear or full"):
        plan_own_data(own(data, model, tmp_path, mode="prompt"))


def test_a_name_that_no_prompt_holds(data, model, tmp_path):
    change(data, categories=lambda c: c[0].update(name=" ".join(["star"] * 80)))
    with pytest.raises(ValueError, match="the class name 'star star .*takes .* tokens, of which a prompt holds 48"):
        plan_own_data(own(data, model, tmp_path, mode="linear"))


def test_results_for_other_annotations_are_not_shown_again(data, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(data, model, out, "--mode", "linear")) == 0
    change(data, annotations=lambda a: a[0]["bbox"].__setitem__(0, 1))
    assert main(command(data, model, out, "--mode", "linear")) == 2
    assert "has results for other annotations: name another folder" in capsys.readouterr().err


def test_the_same_folders_named_from_elsewhere(data, model, tmp_path, monkeypatch, capsys):
    """Relative paths, and folders above the working folder."""
    monkeypatch.chdir(tmp_path)
    more = ("--mode", "linear", "--images", "own/photos")
    assert main([*command(Path("own/photos.json"), model, "out"), *more]) == 0
    first = told(capsys)
    monkeypatch.chdir(tmp_path / "own")
    more = ("--mode", "linear", "--images", "photos")
    assert main([*command(Path("../own/photos.json"), model, "../out"), *more]) == 0
    assert told(capsys)[:2] == first[:2]


def test_a_folder_with_another_run(data, model, tmp_path, capsys):
    """Told before the model is measured, in words of this command."""
    out = tmp_path / "out"
    assert main(command(data, model, out, "--mode", "linear")) == 0
    note = out / "zero_shot/inference" / VALIDATION_SET / "predictions/evaluation.json"
    time = note.stat().st_mtime_ns
    assert main(command(data, model, out, "--mode", "prompt")) == 2
    assert "--output" in capsys.readouterr().err
    assert note.stat().st_mtime_ns == time


def test_a_folder_with_checkpoints_of_something_else(data, model, tmp_path, capsys):
    (tmp_path / "model_0005000.pth").write_text("precious")
    assert main(command(data, model, tmp_path)) == 2
    assert "checkpoints of something else, which would be lost: model_0005000.pth" in capsys.readouterr().err


def test_the_first_measurement_of_other_annotations_is_not_resumed(data, model, tmp_path, monkeypatch):
    """A run that was killed before its first checkpoint, and then another one in its folder."""
    tuning = own(data, model, tmp_path, mode="linear", iterations=1)
    monkeypatch.setattr(own_tuning, "fine_tune", lambda *arguments: TuningResult(False))
    assert tune_on_own_data(tuning) is None
    change(data, annotations=lambda a: a[0]["bbox"].__setitem__(0, 1), categories=lambda c: c[1].update(name="bird"))
    assert tune_on_own_data(tuning) is None
    record = tmp_path / "out" / "zero_shot" / "inference" / VALIDATION_SET
    assert "bird" in (record / "per_class.csv").read_text()
    note = record / "predictions/evaluation.json"
    time = note.stat().st_mtime_ns
    assert tune_on_own_data(tuning) is None
    assert note.stat().st_mtime_ns == time, "the same measurement is kept"


def test_a_folder_and_classes_with_blanks_and_quotes(data, model, tmp_path):
    folder = tmp_path / "my photos"
    data.rename(folder.with_suffix(".json"))
    data.with_suffix("").rename(folder)
    data = change(folder.with_suffix(".json"), categories=lambda c: c[0].update(name='15" cup'))
    tuning = own(data, model, tmp_path, mode="full")
    words = shlex.split(predict_command(tuning, plan_own_data(tuning), tmp_path / "the best.pth"))
    assert str(tmp_path / "the best.pth") in words and '15" cup. dog' in words
