"""Reading and writing weight files: what is broken, foreign or dangerous is named."""

import datetime
import random
import re
import struct

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.utils.weight_files import (
    CheckpointError,
    find_weight_file,
    read_checkpoint,
    save_weights,
    select_state_dict,
    strip_wrappers,
)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {"layer.weight": torch.randn(3, 2), "layer.steps": torch.tensor(7)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_write_and_read(tmp_path, state, suffix):
    path = save_weights(state, tmp_path / "new" / f"weights{suffix}")
    loaded = select_state_dict(read_checkpoint(path))
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_others_may_read_what_was_written_as_any_new_file(tmp_path, state, suffix):
    (tmp_path / "new").touch()
    path = save_weights(state, tmp_path / f"weights{suffix}")
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_half_precision_touches_only_floats(tmp_path, state):
    loaded = read_checkpoint(save_weights(state, tmp_path / "w.safetensors", dtype=torch.float16))
    assert loaded["layer.weight"].dtype == torch.float16
    assert loaded["layer.steps"].dtype == torch.int64


def test_tied_and_non_contiguous_weights_can_be_written(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    loaded = read_checkpoint(save_weights(model, tmp_path / "w.safetensors"))
    assert torch.equal(loaded["0.weight"], loaded["1.weight"])
    read_checkpoint(save_weights({"a": torch.rand(3, 4).t()}, tmp_path / "t.safetensors"))


def test_unknown_ending_is_refused(tmp_path, state):
    with pytest.raises(ValueError, match=r"w\.txt.*must end with"):
        save_weights(state, tmp_path / "w.txt")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, state, monkeypatch):
    path = save_weights(state, tmp_path / "w.pth")
    before = path.read_bytes()

    def broken_save(obj, target):
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError, match="disk full"):
        save_weights(state, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="none of the weight files"):
        read_checkpoint(tmp_path)


def test_folder_prefers_safetensors(tmp_path, state):
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    save_weights(state, tmp_path / "model.safetensors")
    assert find_weight_file(tmp_path).name == "model.safetensors"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_file(tmp_path, state, suffix, kept):
    path = save_weights(state, tmp_path / f"w{suffix}")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"w{suffix}.*(truncated|corrupt|empty)"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [20, -10])
def test_truncated_legacy_file(tmp_path, state, kept):
    path = tmp_path / "w.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path)["model"]["layer.weight"], state["layer.weight"])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="corrupt"):
        read_checkpoint(path)


def test_legacy_file_with_another_storage_key(tmp_path, state):
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = bytearray(path.read_bytes())
    key = str(next(iter(state.values()))._typed_storage()._cdata).encode()
    place = data.rindex(key)
    data[place] = ord("x")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="corrupt"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "error", [AssertionError("storage"), TypeError("no hash"), IndexError("pop"), struct.error("2 bytes")]
)
def test_whatever_damage_makes_of_the_reader(tmp_path, state, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    path = save_weights(state, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError, match=r"w\.pth is corrupt"):
        read_checkpoint(path)


def test_damaged_end_of_a_zip_file(tmp_path, state):
    path = save_weights(state, tmp_path / "w.pth")
    data = bytearray(path.read_bytes())
    locator = data.rindex(b"PK\x06\x07")  # of the 64-bit end record; its last number counts disks
    data[locator + 16] = 2
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w\.pth is truncated"):
        read_checkpoint(path)


def test_damaged_middle(tmp_path, state):
    path = save_weights(state, tmp_path / "w.pth")
    data = bytearray(path.read_bytes())
    data[60:140] = bytes(80)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="corrupt"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "Git LFS pointer"),
        (b"just some text", "corrupt"),
    ],
)
def test_files_mistaken_for_weights(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_noise_is_corrupt_and_not_a_matter_of_trust(tmp_path):
    (tmp_path / "w.pth").write_bytes(bytes(range(201, 256)) * 100)
    with pytest.raises(CheckpointError, match=r"w\.pth is corrupt and cannot be read .*fetch it again") as error:
        read_checkpoint(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_python_objects_need_trust(tmp_path, state, zipped):
    path = tmp_path / "w.pth"
    saved = {"model": state, "when": datetime.timedelta(seconds=3)}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"datetime\.timedelta.*trust=True"):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True)["when"].seconds == 3


def test_training_state_needs_no_trust(tmp_path, state):
    path = tmp_path / "w.pth"
    saved = {
        "model": state,
        "eval_result": np.float64(0.5),
        "iteration": np.int64(3),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
    }
    torch.save(saved, path)
    loaded = read_checkpoint(path)
    assert loaded["eval_result"] == 0.5
    assert loaded["iteration"] == 3
    np.testing.assert_array_equal(loaded["numpy"][1], saved["numpy"][1])
    assert loaded["python"] == saved["python"]


def test_select_state_dict(state):
    for checkpoint in ({"model": state, "iteration": 3}, {"state_dict": state}, state):
        assert select_state_dict(checkpoint).keys() == state.keys()
    assert select_state_dict({"model": state, "model_ema": {"a": torch.zeros(1)}}, "model_ema").keys() == {"a"}
    with pytest.raises(
        CheckpointError, match=r"w\.pth has no state dict under 'model_ema'; its keys: model, iteration"
    ):
        select_state_dict({"model": state, "iteration": 1}, "model_ema", "w.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        select_state_dict([1, 2])
    with pytest.raises(CheckpointError, match="no state dict under 'model'"):
        select_state_dict({"model": {"iteration": 3}})
    with pytest.raises(CheckpointError, match="the name 7 is not a text"):
        select_state_dict({"model": {7: torch.zeros(1)}})


def test_wrappers_are_stripped_only_from_all_keys():
    tensor = torch.zeros(1)
    assert strip_wrappers({"module._orig_mod.a": tensor, "module._orig_mod.b.c": tensor}).keys() == {"a", "b.c"}
    assert strip_wrappers({"module.a": tensor, "b": tensor}).keys() == {"module.a", "b"}
    assert strip_wrappers({}) == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tensor: tensor.to_sparse(), "a sparse tensor (sparse_coo); make it a plain one with to_dense()"),
        (lambda tensor: tensor.to_sparse_csr(), "a sparse tensor (sparse_csr)"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda tensor: torch.nested.nested_tensor([tensor, tensor]), "a nested tensor"),
        (lambda tensor: tensor.to(torch.complex64), "of complex numbers"),
        (lambda tensor: tensor.to("meta"), "a meta tensor, which has no numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_no_plain_tensors_are_named(tmp_path, make, words):
    path = tmp_path / "m.pth"
    torch.save({"model": {"layer.bias": torch.zeros(2), "layer.weight": make(torch.eye(2))}}, path)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: the weight layer.weight is {words}")) as error:
        select_state_dict(read_checkpoint(path), source=str(path))
    assert "\n" not in str(error.value)
