"""Grounded Language-Image Pre-training (GLIP, arXiv:2112.03857) in PyTorch.

Importing the package before PyTorch sets the environment variable OMP_WAIT_POLICY to PASSIVE where it is not set: threads
that wait for each other then give their processor away. Spinning instead, as OpenMP does by default, makes a prediction on
the CPU up to ten times slower beside other programs and on shared machines.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
