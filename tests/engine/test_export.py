"""A checkpoint becomes a model folder: which weights, in which format, with what beside them."""

import pytest
import torch
from safetensors.torch import load_file

from maskrcnn_benchmark.engine.export import export_model

WEIGHTS = {
    "rpn.head.scale": torch.tensor([1.0, 1 / 3]),
    "backbone.body.layers.0.attn.relative_position_index": torch.arange(4),
    "count": torch.tensor(7),
}
AVERAGE = {**WEIGHTS, "rpn.head.scale": torch.tensor([2.0, 2 / 3])}


@pytest.fixture
def config_file(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[UNK]\n")
    path = tmp_path / "small.yaml"
    path.write_text(f"MODEL:\n  LANGUAGE_BACKBONE:\n    MODEL_TYPE: {folder}\n    TOKENIZER_TYPE: {folder}\n")
    return path


def checkpoint(tmp_path, **entries):
    torch.save(entries, tmp_path / "model_final.pth")
    return tmp_path / "model_final.pth"


def test_averaged_weights_as_16_bit_with_vocabulary(tmp_path, config_file):
    exported = export_model(checkpoint(tmp_path, model=WEIGHTS, model_ema=AVERAGE), config_file, tmp_path / "out")
    assert (exported.key, exported.tensors) == ("model_ema", 2)
    assert exported.size == exported.path.stat().st_size
    stored = load_file(exported.path)
    assert torch.equal(stored["rpn.head.scale"], AVERAGE["rpn.head.scale"].half())
    assert stored["count"].dtype == torch.int64 and "backbone.body.layers.0.attn.relative_position_index" not in stored
    assert (tmp_path / "out" / "config.yaml").read_text() == config_file.read_text()
    assert (tmp_path / "out" / "words" / "vocab.txt").is_file()


def test_chosen_entry_format_and_no_vocabulary(tmp_path, config_file):
    exported = export_model(
        checkpoint(tmp_path, model=WEIGHTS, model_ema=AVERAGE),
        config_file,
        tmp_path / "out",
        key="model",
        dtype="float32",
        with_vocabulary=False,
    )
    assert torch.equal(load_file(exported.path)["rpn.head.scale"], WEIGHTS["rpn.head.scale"])
    assert not (tmp_path / "out" / "words").exists()


def test_checkpoint_without_average_gives_its_model(tmp_path, config_file):
    assert export_model(checkpoint(tmp_path, model=WEIGHTS), config_file, tmp_path / "out").key == "model"


def test_value_too_large_for_16_bit_is_named(tmp_path, config_file):
    weights = {"rpn.head.scale": torch.tensor([1e6])}
    with pytest.raises(ValueError, match="rpn.head.scale holds values that are not finite as torch.float16"):
        export_model(checkpoint(tmp_path, model=weights), config_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
