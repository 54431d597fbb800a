"""Draw what a model finds on pictures of test sets.

    python tools/visualize_grounding_net.py --config-file CONFIG --weight FILE [--task_config FILE,FILE]
        [--image_index 0,3-5] [--threshold 0.6] [KEY VALUE ...]

Each picture becomes visualize/tmpINDEX.jpg.
"""

import sys

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import run_visualization
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

if __name__ == "__main__":
    sys.exit(report_errors(lambda: run_visualization(__doc__)))
