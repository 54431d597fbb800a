"""Builds csrc/ into maskrcnn_benchmark/_C.abi3.so; every field of the metadata stands in pyproject.toml.

With a C++ compiler the operators are built for the CPU, with nvcc and a PyTorch that has CUDA for the GPU as well; with
neither nothing is built and the operators run on their plain PyTorch implementations. Variables:

    GLIP_BUILD_OPS=0|1         0 builds nothing; 1 makes every failure an error (otherwise a warning)
    WITH_CUDA=0|1              0 leaves the CUDA kernels out; 1 makes their failure an error
    CUDA_HOME                  the CUDA toolkit, by default that of the nvcc on the PATH
    TORCH_CUDA_ARCH_LIST       GPUs to build for, by default those of this machine, else "8.0;9.0+PTX"
    CC, CXX, MAX_JOBS          compilers, and how many of them run at a time where ninja is installed

The headers are those of the PyTorch that is installed; build_backend.py finds it.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from build_backend import OLDEST_TORCH, compiler, find_torch, has_compiler  # noqa: E402  the folder was not on the path before

SOURCES = Path("csrc")
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # PyTorch 2.11 and newer
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def choice(variable: str) -> bool | None:
    """The value of a variable that is 0, 1 or not set."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{variable} must be 0 or 1, got {value!r}")
    return bool(int(value)) if value else None


def missing_requirement() -> str | None:
    """What prevents building anything, or None."""
    if not (SOURCES / "library.cpp").is_file():
        return f"the sources are missing from {SOURCES}"
    if not has_compiler():
        return f"there is no C++ compiler ({compiler()})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the headers of this Python are missing (on Debian and Ubuntu: install python3-dev)"
    if not find_torch():
        return "this environment has no PyTorch {}.{} or newer yet".format(*OLDEST_TORCH)
    return None


def cuda_home() -> str | None:
    """The toolkit that nvcc belongs to; nvcc says so itself, since the one on the PATH may be a link or a script."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which(str(Path(home) / "bin" / "nvcc") if home else "nvcc")
    if nvcc is None:
        return None
    if home:
        return home
    run = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", run.stderr, re.MULTILINE)
    return str(Path(top.group(1) if top else Path(nvcc).parents[1]).resolve())


def missing_cuda(home: str | None) -> str | None:
    """What prevents building the CUDA kernels, or None."""
    import torch

    if home is None:
        return "there is no nvcc"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    run = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+)\.(\d+)", run.stdout)
    if release is None or release.group(1) != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release.group(1) if release else '?'}, PyTorch of CUDA {torch.version.cuda}"
    return None


def include_folders(home: str) -> list[str]:
    """Where the CUDA headers are: in the toolkit, or in the packages that PyTorch brought."""
    import torch

    packaged = Path(torch.__file__).parents[1] / "nvidia" / f"cu{torch.version.cuda.split('.')[0]}" / "include"
    folders = [str(packaged)] if packaged.is_dir() else []
    return [] if (Path(home) / "include" / "cuda_runtime.h").is_file() else folders


def extension(home: str | None):
    """The library with the CUDA kernels of the toolkit at `home`, or for the CPU alone."""
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    sources = [str(path) for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("cpu/*.cpp")))]
    # Without fused products, so that suppression takes the same decisions on every processor.
    flags = ["-O3", "-fvisibility=hidden", "-ffp-contract=off", *STABLE_ABI]
    common = {"py_limited_api": True, "depends": [str(p) for p in sorted(SOURCES.rglob("*.[hc]*"))]}
    if home is None:
        return CppExtension("maskrcnn_benchmark._C", sources, extra_compile_args={"cxx": flags}, **common)
    sources += [str(path) for path in sorted(SOURCES.glob("cuda/*.cu"))]
    return CUDAExtension(
        "maskrcnn_benchmark._C",
        sources,
        include_dirs=include_folders(home),
        extra_compile_args={"cxx": [*flags, "-DUSE_CUDA"], "nvcc": ["-O3", "-DUSE_CUDA", "--threads=2", *STABLE_ABI]},
        **common,
    )


def build_command(home: str | None, reason: str | None):
    """The command build_ext: compiles in parallel and again only what changed, and goes on without what fails.

    Args:
        home: the CUDA toolkit.
        reason: why the CUDA kernels are left out, or None.
    """
    from torch.utils.cpp_extension import BuildExtension

    class BuildOperators(BuildExtension):
        def initialize_options(self) -> None:
            super().initialize_options()
            self.build_temp = str(ROOT / "build" / "operators")  # not pip's: objects are kept for the next time

        def build_extensions(self) -> None:
            if reason is None and self._build(home, "CUDA kernels", choice("WITH_CUDA") or choice("GLIP_BUILD_OPS")):
                return
            if reason is not None:
                warnings.warn(f"the operators are built for the CPU alone: {reason}", stacklevel=1)
            self._build(None, "operator library", choice("GLIP_BUILD_OPS"))

        def _build(self, home: str | None, what: str, is_strict: bool | None) -> bool:
            vars(self.extensions[0]).update(vars(extension(home)))
            try:
                super().build_extensions()
            except Exception as error:
                if is_strict:
                    raise
                warnings.warn(f"the {what} could not be built, going on without: {error}", stacklevel=1)
                self.extensions[0].optional = True  # what is missing need not be copied
                return False
            return True

    return BuildOperators


def cuda_toolkit() -> tuple[str | None, str | None]:
    """The toolkit to build with, or why there is none; prepares the environment that PyTorch's build rules read."""
    import torch

    if choice("WITH_CUDA") is False:
        return None, "WITH_CUDA=0"
    home = cuda_home()
    reason = missing_cuda(home)
    if reason is not None and choice("WITH_CUDA"):
        raise SystemExit(f"WITH_CUDA=1, but {reason}")
    if home is not None and reason is None:
        os.environ["CUDA_HOME"] = home  # read when torch.utils.cpp_extension is imported
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    return home, reason


def refusal(reason: str):
    """A command build_ext that fails."""

    class RefuseToBuild(build_ext):
        def run(self) -> None:
            raise SystemExit(f"{'GLIP_BUILD_OPS' if choice('GLIP_BUILD_OPS') else 'WITH_CUDA'}=1, but {reason}")

    return RefuseToBuild


def operators() -> dict:
    """The arguments of setup() that build the operators, none where nothing can be built."""
    if choice("GLIP_BUILD_OPS") is False:
        return {}
    reason = missing_requirement()
    if reason is None:
        # ninja may be installed in the environment without being on the path.
        os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")))
        toolkit = cuda_toolkit()
        return {"ext_modules": [extension(None)], "cmdclass": {"build_ext": build_command(*toolkit)}}
    if choice("GLIP_BUILD_OPS") or choice("WITH_CUDA"):
        return {"ext_modules": [Extension("maskrcnn_benchmark._C", [])], "cmdclass": {"build_ext": refusal(reason)}}
    warnings.warn(f"the operators are not built, they will run on plain PyTorch: {reason}", stacklevel=1)
    return {}


setup(options={"bdist_wheel": {"py_limited_api": "cp311"}}, **operators())
