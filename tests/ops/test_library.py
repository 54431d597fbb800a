"""The operator library as a whole: one set of schemas, plain PyTorch where no kernel is, and its build."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.ops import library

ROOT = Path(__file__).parents[2]

# Run in a process of its own, with and without the compiled library.
USE_EVERY_OPERATOR = """
import sys, torch
from maskrcnn_benchmark import ops
from maskrcnn_benchmark.ops import library
generator = torch.Generator().manual_seed(0)
rand = lambda *shape: torch.rand(*shape, generator=generator)
corners = rand(30, 2) * 60
boxes, scores, labels = torch.cat((corners, corners + 20 * rand(30, 2)), 1), rand(30), torch.arange(30) % 3
maps, logits = rand(2, 4, 6, 7).requires_grad_(), rand(2, 5, 6).requires_grad_()
rois = torch.tensor([[0, 1, 2, 5, 5.5], [1, 0, 0, 3, 6]])
results = [
    ops.nms(boxes, scores, 0.3), ops.ml_nms(boxes, scores, labels, 0.3), *ops.soft_nms(boxes, scores),
    ops.roi_align(maps, rois, (2, 2), 1.0, 0, aligned=True), ops.roi_pool(maps, rois, (2, 2), 1.0),
    ops.sigmoid_focal_loss(logits[0], torch.arange(5), 2.0, 0.25),
    ops.token_sigmoid_focal_loss(logits, rand(2, 5, 6), None, 0.25, 2.0),
    ops.deform_conv2d(maps, rand(2, 18, 4, 5), rand(3, 4, 3, 3), rand(3), mask=rand(2, 9, 4, 5)),
]
sum(result.double().sum() for result in results).backward()
served = sorted({row.served_by for row in library.backends()})
torch.save([served, library.MISSING_REASON, [t.detach() for t in (*results, maps.grad, logits.grad)]], sys.argv[1])
"""


def schemas_of_csrc() -> dict[str, str]:
    source = (ROOT / "csrc" / "library.cpp").read_text()
    texts = ["".join(re.findall(r'"([^"]*)"', call)) for call in re.findall(r"m\.def\((.*?)\);", source, re.DOTALL)]
    return {text[: text.index("(")]: text for text in texts}


def test_csrc_and_python_have_the_same_schemas():
    assert schemas_of_csrc() == library.SCHEMAS


def test_hiding_the_compiled_library_changes_no_result(tmp_path):
    results = {}
    for choice in ("", "python"):
        environment = os.environ | {"GLIP_OPS": choice}
        file = tmp_path / f"results{choice}.pt"
        run = [sys.executable, "-c", USE_EVERY_OPERATOR, str(file)]
        subprocess.run(run, cwd=ROOT, env=environment, check=True)
        results[choice] = torch.load(file)
    served, reason, plain = results["python"]
    assert served == [library.PLAIN] and reason == "GLIP_OPS=python hides the compiled library"
    torch.testing.assert_close(results[""][2], plain)


def test_an_unknown_choice_is_refused():
    run = [sys.executable, "-c", "import maskrcnn_benchmark.ops"]
    result = subprocess.run(run, cwd=ROOT, env=os.environ | {"GLIP_OPS": "c"}, capture_output=True, text=True)
    assert result.returncode and "GLIP_OPS must be empty or 'python', got 'c'" in result.stderr


def test_a_library_of_another_version_is_refused():
    schema = library.SCHEMAS["sigmoid_focal_loss"].replace("float gamma", "int gamma")
    with pytest.raises(ImportError, match="of another version.*build it again"):
        library.define(schema, lambda *arguments: None)
    assert library.SCHEMAS["sigmoid_focal_loss"] != schema


def test_every_operator_has_a_row_for_every_device():
    rows = library.backends()
    public = [name for name in library.SCHEMAS if not name.startswith("_")]
    assert [(row.operator, row.device) for row in rows] == [(name, d) for name in public for d in ("cpu", "cuda")]
    assert all(row.reason and row.served_by in (library.COMPILED, library.PLAIN) for row in rows)
    described = library.describe()
    assert list(described) == ["operators", *public]
    assert re.fullmatch(r"cpu: \w+ \(.+\), cuda: \w+ \(.+\)", described["roi_align"])


def test_the_compiled_library_has_every_cpu_kernel():
    if library.MISSING_REASON:
        pytest.skip(library.MISSING_REASON)
    assert not [row for row in library.backends() if row.device == "cpu" and row.served_by != library.COMPILED]


def test_cuda_sources_compile(tmp_path):
    """Compiles what changed since the last build, for one GPU."""
    if shutil.which("nvcc") is None or shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs nvcc and a C++ compiler")
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA")
    environment = os.environ | {"WITH_CUDA": "1", "GLIP_BUILD_OPS": "1"}
    environment.setdefault("MAX_JOBS", "2")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert (tmp_path / "maskrcnn_benchmark" / "_C.abi3.so").is_file()
