"""Runs the Triton kernels of the package on CPU tensors, one program after the other, in the process of the test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Inside, the launchers of every module of kernels that is loaded take CPU tensors and run their kernels."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    pytest.importorskip("triton.experimental.gluon")  # loaded later, it would meet patched functions
    from triton import JITFunction

    patch_tensor = interpreter._patch_lang_tensor

    def patch_index(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        # NumPy 2.4 turns no array of one dimension into an integer, which loops to a bound of run time ask for.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patch_index)
        for name, module in list(sys.modules.items()):
            if not name.startswith(("maskrcnn_benchmark.ops.kernels.", "triton.language")):
                continue
            for attribute, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    patch.setattr(module, attribute, interpreter.InterpretedFunction(value.fn))
            if hasattr(module, "runs_kernels"):
                patch.setattr(module, "runs_kernels", lambda tensor: True)
        yield
