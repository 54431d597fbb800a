"""Files that hold weights: reading .pth and .safetensors with errors one can act on, and writing them atomically."""

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file as save_safetensors
from torch import Tensor, nn

from maskrcnn_benchmark.utils.complete_files import atomic_path

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth")  # looked for, in this order, in a folder
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # put around every name by DataParallel and torch.compile

# numpy numbers and arrays, which trainers store as evaluation results and random states: data without code
_SAFE_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
    *(
        (value.__reduce__()[0], f"{module}.{function}")  # the module's name before and since numpy 2
        for value, function in ((np.float64(0), "scalar"), (np.zeros(1), "_reconstruct"))
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ),
]

# What torch.load raises on damaged files; AssertionError is that of files from before PyTorch 1.6.
_UNPICKLING_ERRORS = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)


class CheckpointError(ValueError):
    """A file of weights that cannot be read, or does not hold what was asked for."""


def find_weight_file(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` itself, or the weight file inside it if it is a folder.

    Raises: FileNotFoundError if there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in FOLDER_FILES if (path / name).is_file()), None)
        if found is None:
            raise FileNotFoundError(f"folder {path} holds none of the weight files {', '.join(FOLDER_FILES)}")
        return found
    if not path.is_file():
        raise FileNotFoundError(f"weight file {path} does not exist")
    return path


def read_checkpoint(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """Read a .pth or .safetensors file (or the one in a folder) to the CPU.

    Args:
        trust: also unpickle arbitrary Python objects, which can run code hidden in the file.
    Raises: FileNotFoundError; CheckpointError for a truncated, corrupt or foreign file, and for one that needs trust.
    """
    path = find_weight_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _refuse_foreign_content(path)
    is_zip = _is_zip(path)
    try:
        with torch.serialization.safe_globals(_SAFE_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=not trust, mmap=is_zip)
    except _UNPICKLING_ERRORS as error:
        if not trust and (name := _refused_object(error)):
            raise CheckpointError(
                f"{path} holds other Python objects than tensors (such as {name}); loading them can run code hidden in "
                "the file. Pass trust=True only if you trust its source"
            ) from error
        raise CheckpointError(f"{path} is corrupt and cannot be read ({_reason(error)}); fetch it again") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_safetensors(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or corrupt, not a safetensors file ({error})") from error


def _refuse_foreign_content(path: Path) -> None:
    """Recognise the files that people mistake for weights by their first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if not head:
        raise CheckpointError(f"{path} is empty")
    if head.startswith(b"PK\x03\x04") and not _is_zip(path):
        raise CheckpointError(f"{path} is truncated ({size:,} bytes, its end is missing); fetch it again")
    if looks_like_html(head):
        raise CheckpointError(f"{path} is a web page, not weights; download the file itself, not the page about it")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer of {size} bytes, not weights; run 'git lfs pull'")


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end is damaged
        return False


def looks_like_html(head: bytes) -> bool:
    """True if the first bytes of a file are those of a web page."""
    return head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))


def _refused_object(error: Exception) -> str | None:
    """Name of the Python object that weights_only refused; None if reading failed for another reason."""
    match = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    return match[1] if match else None


def _reason(error: Exception) -> str:
    """What went wrong, without PyTorch's advice to read the file without its protection."""
    unpickling = re.search(r"WeightsUnpickler error: (.*)", str(error))
    lines = [unpickling[1]] if unpickling else str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"


def select_state_dict(checkpoint: Any, key: str = "model", source: str = "the checkpoint") -> dict[str, Tensor]:
    """Take the state dict stored under ``key`` out of what `read_checkpoint` returned, without wrapper prefixes.

    A bare state dict stands for ``model``, and ``state_dict`` is accepted as another name of it.

    Raises: CheckpointError naming the keys that exist, or a weight that is sparse, quantized, nested, complex or empty.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{source} holds a {type(checkpoint).__name__}, not a dict of weights")
    stored = checkpoint.get(key)
    if stored is None and key == "model":
        stored = checkpoint.get("state_dict", checkpoint)
    if not isinstance(stored, Mapping) or not any(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"{source} has no state dict under {key!r}; its keys: {_shorten(checkpoint)}")
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    wrong = next((name for name in tensors if not isinstance(name, str)), None)
    if wrong is not None:
        raise CheckpointError(f"{source} has no state dict under {key!r}: the name {wrong!r} is not a text")
    for name, value in tensors.items():
        if remedy := _unusual_form(value):
            raise CheckpointError(f"{source}: the weight {name} is {remedy} before saving it")
    return strip_wrappers(tensors)


def _unusual_form(value: Tensor) -> str:
    """What keeps a tensor from being copied into a parameter, and how to change it; "" if nothing does."""
    if value.is_meta:
        return "a meta tensor, which has no numbers; give it some"
    if value.is_quantized:
        return "a quantized tensor; make it a plain one with dequantize()"
    if value.is_nested:
        return "a nested tensor; make it a plain one with to_padded_tensor()"
    if value.layout is not torch.strided:
        return f"a sparse tensor ({str(value.layout).removeprefix('torch.')}); make it a plain one with to_dense()"
    if value.is_complex():
        return "of complex numbers; make it real with view_as_real()"
    return ""


def strip_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that wrapping modules put around every key, however often they were put there."""
    while state_dict:
        prefix = next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state_dict)), None)
        if prefix is None:
            break
        state_dict = {name[len(prefix) :]: value for name, value in state_dict.items()}
    return state_dict


def _shorten(names: Mapping[str, Any], limit: int = 8) -> str:
    shown = ", ".join(str(name) for name in list(names)[:limit])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > limit else shown or "none"


def write_pickled(data: Any, path: str | os.PathLike[str]) -> None:
    """``torch.save``, but the reason why it cannot write is raised: ENOSPC on a full disk for example.

    Raises: OSError.
    """
    try:
        with open(path, "wb") as file:
            torch.save(data, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def save_weights(
    weights: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the state dict of a module (or a state dict) as .safetensors, or as .pth under the key ``model``.

    Args:
        dtype: store floating tensors as this type, e.g. ``torch.float16``; loading casts back to the parameter's type.
        metadata: text pairs kept in the header of a safetensors file.
    Raises: ValueError for another file ending.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".bin"):
        raise ValueError(f"cannot write weights to {path}: the name must end with .safetensors, .pth or .bin")
    state = strip_wrappers(dict(weights.state_dict() if isinstance(weights, nn.Module) else weights))
    # a copy per entry: safetensors refuses tensors that share memory, as tied weights do
    state = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).clone().contiguous()
        for name, value in state.items()
    }
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            temporary.touch()
            mode = temporary.stat().st_mode  # as of any new file; safetensors makes its own for the owner alone
            save_safetensors(state, temporary, metadata={"format": "pt", **(metadata or {})})
            temporary.chmod(mode)
        else:
            write_pickled({"model": state}, temporary)
    return path
