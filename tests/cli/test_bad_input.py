"""Bad input: the exit code, one line on standard error with the offending value, no traceback, no file left behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_detector import fake_detector
from PIL import Image

import maskrcnn_benchmark
from maskrcnn_benchmark.cli import console, predict
from maskrcnn_benchmark.cli.main import main

NANO = "configs/scenes/glip_nano.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with one good picture beside it."""
    work = tmp_path / "work"
    work.mkdir()
    Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(tmp_path / "good.png")
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def fake(monkeypatch):
    made = fake_detector()
    monkeypatch.setattr(predict, "load_detector", lambda args: made)
    return made


def assert_refused(argv: list[str], value: str, folder: Path, capsys) -> None:
    """The command ends with BAD_INPUT, one line that holds ``value``, and an empty working folder."""
    before = sorted(folder.iterdir())
    assert main(argv) == console.BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1 and shown.err.startswith("glip: error: "), shown.err
    assert value in shown.err and "Traceback" not in shown.err
    assert sorted(folder.iterdir()) == before


def command(image, text="dog", *more) -> list[str]:
    return ["predict", "--image", str(image), "--text", text, *more]


def test_missing_picture(folder, capsys):
    assert_refused(command("nowhere.png"), "nowhere.png", folder, capsys)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\x00\x00", b"P6\n0 5\n255\n"],
    ids=["empty", "text", "cut", "0x5"],
)
def test_broken_and_zero_size_pictures(folder, capsys, content, fake):
    (folder / "bad.png").write_bytes(content)
    assert_refused(command("bad.png"), "bad.png", folder, capsys)


def test_picture_whose_data_end_early(folder, capsys, fake):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:50000])
    assert_refused(command("cut.png"), "cut.png", folder, capsys)


def test_folder_without_pictures_and_pattern_without_matches(folder, capsys):
    (folder / "empty").mkdir()
    assert_refused(command("empty"), "'empty'", folder, capsys)
    assert_refused(command("*.png"), "'*.png'", folder, capsys)
    assert_refused(command(""), "''", folder, capsys)


def test_output_that_is_a_file(folder, capsys):
    assert_refused(command("../good.png", "dog", "--output", "../good.png"), "'../good.png' is a file", folder, capsys)
    inside = command("../good.png", "dog", "--output", "../good.png/a/b")
    assert_refused(inside, "'../good.png/a/b' is in '", folder, capsys)
    assert_refused(["scenes", "--out", "../good.png/x"], "--out '../good.png/x'", folder, capsys)
    assert_refused(["demo", "--output", "../good.png/x"], "--output '../good.png/x'", folder, capsys)


def test_output_that_cannot_be_written(folder, capsys, monkeypatch, fake):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_refused(command("../good.png", "dog", "--output", "out"), "--output 'out': nothing can be", folder, capsys)


def test_a_full_disk(folder, capsys, monkeypatch, fake):
    def fail(self, path, **options):
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    (folder / "glip_output").mkdir()
    assert_refused(command("../good.png"), "'glip_output/good.png': No space left on device", folder, capsys)
    assert list((folder / "glip_output").iterdir()) == []


def test_too_little_memory(folder, capsys, monkeypatch, fake):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fake, "predict", fail)
    assert_refused(command("../good.png", "dog", "--batch-size", "7"), "--batch-size 7 on cpu", folder, capsys)


def test_a_pipe_instead_of_a_picture(folder, capsys):
    os.mkfifo("pipe.png")
    assert_refused(command("pipe.png"), "pipe.png", folder, capsys)


def test_pictures_of_one_pixel_and_of_one_line(folder, fake):
    for name, size in (("dot.png", (1, 1)), ("line.png", (1, 3000)), ("row.png", (3000, 2))):
        Image.new("RGB", size).save(name)
        assert main(command(name)) == console.OK
        assert Image.open(f"glip_output/{name}").size == size


def test_a_file_name_that_is_no_utf8(folder, fake, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy("../good.png", name)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes only Unicode names")
    assert main(command(name)) == console.OK
    records = json.loads(Path("glip_output/predictions.json").read_text(encoding="utf-8"))
    assert records["images"][0]["file_name"] == name and Path("glip_output", name).exists()


def test_a_long_file_name(folder, fake):
    name = "long" * 62 + ".png"
    shutil.copy("../good.png", name)
    assert main(command(name)) == console.OK and Path("glip_output", name).exists()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_pictures_of_other_modes_work(folder, fake, mode):
    picture = Image.fromarray(
        np.full((48, 64), 99, np.uint16) if mode == "I;16" else np.full((48, 64, 3), 99, np.uint8)
    )
    (picture if mode == "I;16" else picture.convert(mode)).save("odd.tif")
    assert main(command("odd.tif")) == console.OK
    assert Image.open("glip_output/odd.png").size == (64, 48)


def test_turned_picture_is_turned_upright(folder, fake):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save("turned.jpg", exif=exif)
    assert main(command("turned.jpg")) == console.OK
    assert Image.open("glip_output/turned.png").size == (48, 64)


@pytest.mark.parametrize("text", ["", "   ", ". . .", ";;\n", " , , ", "...", "!?", "@#$%^&*", "(-_-)", "caf\udce9"])
def test_prompts_without_a_class(folder, capsys, text):
    assert_refused(command("../good.png", text), repr(text), folder, capsys)
    caption = ["predict", "--image", "../good.png", "--caption", text]
    assert_refused(caption, repr(text), folder, capsys)


@pytest.mark.parametrize("text", ["猫. 犬", "кот. собака", "🐱. 🚦", "قطة", "naïve café. Ærø", "a\u0301 b\u200b c"])
def test_non_latin_prompts_work(folder, fake, text):
    assert main(command("../good.png", text)) == console.OK
    assert Path("glip_output/good.png").exists()
    assert main(["predict", "--image", "../good.png", "--caption", text]) == console.OK


def test_5000_classes(folder, fake, capsys):
    names = [f"{colour} thing number {i}" for i, colour in zip(range(5000), ["red", "blue"] * 2500, strict=True)]
    assert main(command("../good.png", ". ".join(names), "--threshold", "0.85")) == console.OK
    assert len(fake.model.encoded_images) == 1 and sum(map(len, fake.model.encoded_texts)) > 100
    assert "1000 boxes" in capsys.readouterr().out


def test_duplicate_classes_are_one_class(folder, fake, capsys):
    assert main(command("../good.png", "dog. cat. dog. Dog")) == console.OK
    assert "2 boxes on 1 picture: 1 dog, 1 cat" in capsys.readouterr().out


def test_a_class_that_is_too_long(folder, fake, capsys):
    name = "endless " * 300
    assert_refused(command("../good.png", f"dog. {name}"), "endless endless", folder, capsys)


def test_a_device_that_does_not_exist(folder, capsys):
    assert_refused(command("../good.png", "dog", "--device", "cuda:99"), "cuda:99", folder, capsys)
    assert_refused(command("../good.png", "dog", "--device", "toaster"), "toaster", folder, capsys)


def test_models_that_do_not_exist(folder, capsys):
    assert_refused(command("../good.png", "dog", "--model", "glip_huge"), "glip_huge", folder, capsys)
    typo = command("../good.png", "dog", "--model", "glip_tiny_o365_goldg")
    assert_refused(typo, "did you mean glip_tiny_model_o365_goldg?", folder, capsys)
    assert_refused(command("../good.png", "dog", "--model", ""), "model '' is neither", folder, capsys)
    (folder / "mine").mkdir()
    assert_refused(command("../good.png", "dog", "--model", "mine"), "'mine'", folder, capsys)


def test_a_published_model_without_network(folder, capsys, monkeypatch):
    monkeypatch.setenv("GLIP_OFFLINE", "1")
    monkeypatch.setenv("GLIP_CACHE", str(folder / "cache"))
    name = "glip_tiny_model_o365"
    assert_refused(command("../good.png", "dog", "--model", name), name, folder, capsys)


def test_configuration_and_weights_go_together(folder, capsys):
    for flags in (["--weights", "w.pth"], ["--config-file", "c.yaml"]):
        assert_refused(command("../good.png", "dog", *flags), "--config-file and --weights", folder, capsys)
        assert_refused(["demo", *flags], "--config-file and --weights", folder, capsys)


def with_weights(config, weights) -> list[str]:
    return command("../good.png", "dog", "--device", "cpu", "--config-file", str(config), "--weights", str(weights))


def test_a_config_that_is_a_folder_or_missing_or_no_yaml(folder, capsys):
    (folder / "configs").mkdir()
    (folder / "bad.yaml").write_text("MODEL: [unclosed")
    (folder / "typo.yaml").write_text("MODEL:\n  WIEGHT: x\n")
    for name in ("configs", "gone.yaml", "bad.yaml"):
        assert_refused(with_weights(name, "w.pth"), name, folder, capsys)
    assert_refused(with_weights("typo.yaml", "w.pth"), "MODEL.WIEGHT", folder, capsys)


def test_missing_truncated_and_foreign_checkpoints(folder, capsys):
    state = {"model": {"backbone.body.weight": torch.zeros(300, 300), "head.bias": torch.zeros(3)}}
    torch.save(state, folder / "other.pth")
    (folder / "cut.pth").write_bytes((folder / "other.pth").read_bytes()[:5000])
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    (folder / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    for name in ("gone.pth", "other.pth", "cut.pth", "cut.safetensors", "page.pth"):
        assert_refused(with_weights(NANO, name), name, folder, capsys)


def test_as_a_program(folder):
    """The same as a process of its own: nothing of the libraries gets onto standard error, and a bad byte is shown."""
    argv = [sys.executable, "-m", "maskrcnn_benchmark.cli.main", "predict", "--text", "dog", "--image"]
    environment = {**os.environ, "PYTHONPATH": str(Path(maskrcnn_benchmark.__file__).parents[1])}
    result = subprocess.run([*argv, b"\xffgone.png"], capture_output=True, cwd=folder, env=environment, timeout=600)
    assert result.returncode == console.BAD_INPUT and result.stdout == b""
    assert result.stderr.count(b"\n") == 1 and b"gone.png" in result.stderr
    assert list(folder.iterdir()) == []
