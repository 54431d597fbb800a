"""Fine-tune a model on one or several tasks: all of it, a linear probe, or a learnt prompt; with a few pictures or all.

    python tools/finetune.py --config-file CONFIG --ft-tasks "configs/odinw_13/*.yaml" [flags] [KEY VALUE ...]
    torchrun --nproc_per_node=4 tools/finetune.py --config-file CONFIG [flags] [KEY VALUE ...]

SOLVER.TUNING_HIGHLEVEL_OVERRIDE says what is trained: full, linear_prob, language_prompt_v1 to _v4, or
language_prompt_v3_fixed and _v4_fixed. Each training has a folder OUTPUT_DIR/ft_task_NUMBER[_seed_SEED]; the scores of
all are in OUTPUT_DIR/results.json and .csv. The same command again goes on where it stopped.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.cli.tools import parse_tool_arguments
from maskrcnn_benchmark.engine.testing.evaluation_run import run_test as test
from maskrcnn_benchmark.engine.training.training_run import train
from maskrcnn_benchmark.engine.tuning.finetune_arguments import add_arguments
from maskrcnn_benchmark.engine.tuning.finetune_run import run
from maskrcnn_benchmark.engine.tuning.tuning_modes import report_freeze_options, tuning_highlevel_override
from maskrcnn_benchmark.utils import env  # noqa: F401  runs the site's set-up

__all__ = ["main", "removekey", "report_freeze_options", "test", "train", "tuning_highlevel_override"]


def main(argv: Sequence[str] | None = None) -> int:
    """Flags may stand anywhere among the configuration entries."""
    args, opts = parse_tool_arguments(__doc__, add_arguments, argv)
    return run(args, opts)


def removekey(d: Mapping[str, Any], listofkeys: Iterable[str]) -> dict[str, Any]:
    """A copy of a dictionary without some keys, one or several. Nothing here needs it; other code imports it."""
    removed = {listofkeys} if isinstance(listofkeys, str) else set(listofkeys)
    return {key: value for key, value in d.items() if key not in removed}


if __name__ == "__main__":
    sys.exit(report_errors(main))
