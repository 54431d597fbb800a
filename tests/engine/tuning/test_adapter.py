"""Adapters: small files with what was trained, for the model that they were trained with and no other."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_detector import make_text_folder, scramble, tiny_config

from maskrcnn_benchmark.cli import predict
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.tuning.adapter import PROMPT_TABLE, Adapter, fingerprint, make_adapter
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.scenes import generate_scene
from maskrcnn_benchmark.text.prompt import build_prompts
from maskrcnn_benchmark.utils.weight_files import CheckpointError, save_weights

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
NAMES = ["cup", "red dog"]


class Base:
    """A model on disk, its detector, and models that are fine-tuned from it."""

    def __init__(self, folder):
        self.folder = folder
        self.text = make_text_folder(folder / "text")
        self.weights = folder / "base.safetensors"
        torch.manual_seed(0)
        save_weights(scramble(build_detection_model(self.cfg())), self.weights)

    def cfg(self, mode=None, *options):
        small = ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode)
        return tuning_highlevel_override(tiny_config(self.text, *small, *options))

    def detector(self, mode=None, seed=None, *options) -> Detector:
        """With a seed, what training in that mode could have made of the base."""
        found = Detector.from_config(self.cfg(mode, *options), self.weights, device="cpu", name="base")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in found.model.train().parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            found.model.eval()
        return found

    def adapter(self, detector, mode) -> Adapter:
        prompts = build_prompts(NAMES, detector.model.tokenizer, max_tokens=detector.max_tokens)
        return make_adapter(detector.model, self.cfg(mode), "base", NAMES, prompts)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base(tmp_path_factory.mktemp("adapter"))


def boxes(detector, prompt=NAMES):
    (found,) = detector.predict([PICTURE], [prompt], threshold=0.0)
    assert len(found) > 0
    return found.boxes.cpu(), found.scores.cpu()


def same(one, other) -> bool:
    return one[0].shape == other[0].shape and all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("mode", "num_tensors"), [("language_prompt_v2", 1), ("linear_prob", 9), ("language_prompt_v4_fixed", 10)]
)
def test_detections_of_the_tuned_model(base, tmp_path, mode, num_tensors):
    """The base with the file is the model that was tuned; without it, the base again."""
    tuned = base.detector(mode, seed=1)
    path = base.adapter(tuned, mode).save(tmp_path / "a.safetensors")
    detector = base.detector()
    before, wanted = boxes(detector), boxes(tuned)
    assert not same(before, wanted)
    detector.load_adapter(path)
    assert len(detector.adapter.weights) == num_tensors and detector.adapter.vocabulary == tuple(NAMES)
    assert same(boxes(detector), wanted)
    assert same(boxes(detector, detector.adapter.prompts), wanted)
    assert detector.adapter.mode == mode and detector.adapter.config["MODEL.BACKBONE.FREEZE"] is True
    assert same(boxes(detector.load_adapter(None)), before) and detector.adapter is None


def test_one_adapter_after_another(base):
    """A second one replaces the first one, also where it trains other weights."""
    modes = ("linear_prob", "language_prompt_v2", "language_prompt_v2")
    tuned = [base.detector(mode, seed=seed) for seed, mode in enumerate(modes)]
    detector = base.detector()
    for one, mode in zip(tuned, modes, strict=True):
        assert same(boxes(detector.load_adapter(base.adapter(one, mode))), boxes(one))


def test_only_rows_that_are_read(base):
    adapter = base.adapter(base.detector("language_prompt_v2", seed=1), "language_prompt_v2")
    assert {name: tuple(value.shape) for name, value in adapter.weights.items()} == {PROMPT_TABLE: (48, 16)}
    assert adapter.has_prompt


def test_size_at_the_published_size(tmp_path):
    """256 rows of 768 numbers and the header: below a megabyte."""
    adapter = Adapter({PROMPT_TABLE: torch.randn(256, 768)}, "glip_tiny", "0" * 64, tuple(map(str, range(80))))
    assert adapter.save(tmp_path / "a.safetensors").stat().st_size < 1_000_000


def test_another_base_is_refused(base):
    """Other weights under the same names, and other sizes; the detector then has no adapter."""
    adapter = base.adapter(base.detector("language_prompt_v2", seed=1), "language_prompt_v2")
    other = base.detector()
    with torch.no_grad():
        other.model.rpn.head.bbox_pred.bias[0] += 1e-3
    before = boxes(other)
    with pytest.raises(ValueError, match="trained with base .*has other weights"):
        other.load_adapter(adapter)
    assert other.adapter is None and other.model.rpn.tunable_linear is None and same(boxes(other), before)
    wide = dataclasses.replace(adapter, weights={PROMPT_TABLE: torch.zeros(48, 20)})
    with pytest.raises(ValueError, match=r"prompt table \(48, 20\) does not fit text of width 16"):
        base.detector().load_adapter(wide)
    unknown = dataclasses.replace(adapter, weights={"rpn.head.bbox_pred.bias": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"another model: rpn.head.bbox_pred.bias is \(7,\) there and \(4,\) here"):
        base.detector().load_adapter(unknown)


def test_the_unused_class_branch_does_not_matter(base):
    """Its size follows the number of classes, which fine-tuning changes."""
    few = base.detector(None, None, "MODEL.DYHEAD.NUM_CLASSES", 3)
    assert few.model.rpn.head.cls_logits.bias.shape != base.detector().model.rpn.head.cls_logits.bias.shape
    assert fingerprint(few.model, ()) == fingerprint(base.detector().model, ())


def test_full_tuning_has_no_adapter(base):
    with pytest.raises(ValueError, match="are trained .*the checkpoint is the result"):
        base.adapter(base.detector("full"), "full")


def test_files_that_are_no_adapters(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter .*nothing.safetensors"):
        Adapter.load(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="without the header of an adapter"):
        Adapter.load(base.weights)
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        Adapter.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="must end with .safetensors"):
        Adapter({}, "base", "").save(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompts", None),
        ("prompts", "[1]"),
        ("prompts", '[{"caption": "x"}]'),
        ("vocabulary", "5"),
        ("base_hash", None),
        ("config", "a: [unclosed"),
    ],
)
def test_damaged_headers(base, tmp_path, key, value):
    path = base.adapter(base.detector("language_prompt_v2", seed=1), "language_prompt_v2").save(
        tmp_path / "a.safetensors"
    )
    with safe_open(path, "pt") as file:
        header, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header.pop(key)
    save_file(weights, path, metadata=header if value is None else {**header, key: value})
    with pytest.raises(CheckpointError, match="'.*a.safetensors' is a damaged adapter: its header cannot be read"):
        Adapter.load(path)


def test_prepared_weights_are_forgotten(base):
    """An accelerated detector prepares its weights once, and anew after a change."""
    detector, calls = base.detector(), []
    detector.model.acceleration.forget = lambda: calls.append("forgotten")
    detector.load_adapter(base.adapter(base.detector("linear_prob", seed=1), "linear_prob"))
    assert calls


def found_in_scene(detector, adapter):
    """Boxes and scores of what is found in a drawn picture, the best first."""
    picture, scene = generate_scene(3, "val", 0)
    (found,) = detector.load_adapter(adapter).predict(picture, sorted({thing.kind for thing in scene.objects}))
    assert len(found) > 2
    return found.boxes.cpu(), found.scores.cpu()


@pytest.mark.gpu
def test_accelerated_detectors_take_adapters_on_and_off():
    """They prepare weights, and record graphs at the second picture; the plain modules tell what is right."""
    plain, accelerated = (Detector.from_pretrained("glip_nano", device, precision="fp32") for device in ("cpu", "cuda"))
    weights = {
        PROMPT_TABLE: 0.02 * torch.randn(256, 128, generator=torch.Generator().manual_seed(0)),
        "rpn.head.bbox_pred.bias": plain.model.rpn.head.bbox_pred.bias.detach() + 0.1,
    }
    adapter = Adapter(weights, "glip_nano", fingerprint(plain.model, weights))
    without, with_it = found_in_scene(plain, None), found_in_scene(plain, adapter)
    assert without[0].shape != with_it[0].shape or (without[0] - with_it[0]).abs().max() > 1
    for given, wanted in [(None, without)] * 3 + [(adapter, with_it)] * 3 + [(None, without)]:
        boxes, scores = found_in_scene(accelerated, given)
        torch.testing.assert_close(boxes, wanted[0], atol=0.05, rtol=0)
        torch.testing.assert_close(scores, wanted[1], atol=1e-3, rtol=0)


def test_predict_command(base, tmp_path, monkeypatch, capsys, caplog):
    """Without a text it searches for the classes of the adapter; another text does not fit a learnt prompt."""
    from PIL import Image

    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    tuned = base.detector("language_prompt_v2", seed=1)
    path = base.adapter(tuned, "language_prompt_v2").save(tmp_path / "a.safetensors")
    monkeypatch.setattr(predict, "load_detector", lambda args: base.detector())
    command = ["predict", "--image", str(tmp_path / "p.png"), "--threshold", "0", "--output", str(tmp_path / "out")]
    assert main([*command, "--adapter", str(path)]) == 0
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["info"]["prompt"] == ["cup. red dog"]
    wanted = boxes(tuned)[1]
    assert [a["score"] for a in record["annotations"]] == pytest.approx(wanted.tolist(), abs=1e-3)
    assert main([*command, "--adapter", str(path), "--text", "bird"]) == 0
    assert "belongs to the text 'cup. red dog', not to 'bird'" in caplog.text
    assert main(command) == 2
    assert "one of --text, --classes, --caption and --adapter is needed" in capsys.readouterr().err
