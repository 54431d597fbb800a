"""Installs the package: ``pip install .``, ``pip install -e .`` or ``python setup.py build develop``.

Every field of the metadata stands in pyproject.toml. Nothing is compiled: each operator runs on its PyTorch
implementation, so neither a compiler nor a GPU is needed.
"""

from setuptools import setup

setup()
