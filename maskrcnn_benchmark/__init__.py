"""Grounded Language-Image Pre-training (GLIP, arXiv:2112.03857) in PyTorch.

Imported before PyTorch, the package sets the environment variable OMP_WAIT_POLICY to PASSIVE where it is not set:
threads that wait for each other give their processor away. Spinning instead, which is OpenMP's default, makes
predictions on the CPU up to ten times slower beside other programs and on shared machines.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
