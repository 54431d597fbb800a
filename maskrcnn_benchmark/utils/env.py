"""A hook for sites that must prepare the process: importing this module runs the file they name, if they name one.

The environment variable TORCH_DETECTRON_ENV_MODULE is the path of a Python file with a function ``setup_environment``.
Its code runs with the rights of the user, so the variable must come from somebody trusted.
"""

import os

from maskrcnn_benchmark.utils.imports import import_file


def setup_environment() -> None:
    """Run the site's ``setup_environment``, if TORCH_DETECTRON_ENV_MODULE names a file.

    Raises: FileNotFoundError; ValueError if the file defines no such function.
    """
    path = os.environ.get("TORCH_DETECTRON_ENV_MODULE")
    if not path:
        return
    module = import_file("maskrcnn_benchmark.utils.env.custom_module", path)
    function = getattr(module, "setup_environment", None)
    if not callable(function):
        raise ValueError(f"TORCH_DETECTRON_ENV_MODULE={path} defines no function setup_environment")
    function()


setup_environment()
