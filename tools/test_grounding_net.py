"""Measure a model on test sets: detection by prompts, or grounding of captions.

    python tools/test_grounding_net.py --config-file CONFIG --weight FILE [--task_config FILE,FILE] [KEY VALUE ...]
    torchrun --nproc_per_node=8 tools/test_grounding_net.py --config-file CONFIG --weight FILE [KEY VALUE ...]

TEST.EVAL_TASK says what is measured. Results go to OUTPUT_DIR/eval/NAME OF THE WEIGHTS/inference/TEST SET.
With --resume the same command goes on where it was interrupted.
"""

import sys

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import run_evaluation
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

if __name__ == "__main__":
    sys.exit(report_errors(lambda: run_evaluation(__doc__)))
