"""Another name of tools/test_grounding_net.py."""

import sys

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import run_evaluation
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

if __name__ == "__main__":
    sys.exit(report_errors(lambda: run_evaluation(__doc__)))
