"""Let a teacher find the things that captions name, as training data for a student.

    python tools/pseudo_label.py --pairs captions.jsonl --images DIR --out labels
    torchrun --nproc_per_node=8 tools/pseudo_label.py --pairs 'cc3m/{00000..00331}.tar' --out labels --model NAME|DIR

The noun phrases of a caption are searched for on its picture. The same command goes on where it was stopped. At the end
labels/data.yaml is a data set of `type: caption`, and labels/statistics.json says what is in it.
"""

import sys

from maskrcnn_benchmark.cli import pseudo_label
from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

if __name__ == "__main__":
    sys.exit(report_errors(lambda: pseudo_label.run(pseudo_label.parse_arguments(sys.argv[0], __doc__, None))))
