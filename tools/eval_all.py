"""Evaluate the checkpoints of a training run.

python tools/eval_all.py --config-file DIR/config.yml [--evaluate_only_best_on_test] [--skip_eval] OUTPUT_DIR DIR ...

Results go to DIR/eval/CHECKPOINT/inference/TEST SET, all figures together to DIR/eval/summary.json.
"""

import sys

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import run_checkpoint_evaluation
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

if __name__ == "__main__":
    sys.exit(report_errors(lambda: run_checkpoint_evaluation(__doc__)))
