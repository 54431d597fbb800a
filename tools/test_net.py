"""Measure a model on its test sets; another name of tools/test_grounding_net.py.

python tools/test_net.py --config-file CONFIG [--weight FILE] [KEY VALUE ...]
"""

import sys

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import run_evaluation
from maskrcnn_benchmark.engine.testing.evaluation_run import run_test
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

__all__ = ["run_test"]

if __name__ == "__main__":
    sys.exit(report_errors(lambda: run_evaluation(__doc__)))
