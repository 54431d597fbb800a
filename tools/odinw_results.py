"""Sum up the results of the ODinW tasks, and write them for the leaderboard.

    python tools/odinw_results.py FOLDER [--collection odinw_13] [--test-set val] [--leaderboard FILE] [--names FILE]

FOLDER holds results of tools/test_grounding_net.py (a folder per task) or of fine-tuning (ft_task_NUMBER_seed_SEED).
Writes FOLDER/COLLECTION.json and .csv with AP per task, its mean and its median.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.cli.console import OK, Parser, report_errors
from maskrcnn_benchmark.evaluation.odinw import (
    COLLECTIONS,
    LEADERBOARD_NAMES,
    find_runs,
    summarize_runs,
    summary_table,
    write_leaderboard,
    write_summary,
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="tools/odinw_results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results of tasks; see above")
    parser.add_argument(
        "--collection", choices=COLLECTIONS, default="odinw_13", help="which tasks; default: %(default)s"
    )
    parser.add_argument(
        "--test-set", default="", metavar="NAME", help="the test set that counts, where tasks have several"
    )
    parser.add_argument("--leaderboard", type=Path, metavar="FILE", help="write all detections to FILE")
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="JSON {task: name on the leaderboard}, for names that differ"
    )
    args = parser.parse_args(argv)
    runs = find_runs(args.folder, args.test_set, args.collection)
    summary = summarize_runs(runs, args.collection)
    write_summary(args.folder, args.collection, summary)
    print(summary_table(summary))
    if summary["missing"]:
        print(f"without results: {', '.join(summary['missing'])}")
    if args.leaderboard is not None:
        names = LEADERBOARD_NAMES if args.names is None else json.loads(args.names.read_text(encoding="utf-8"))
        write_leaderboard(args.leaderboard, runs, names)
        print(f"detections of {len(runs)} results are in {args.leaderboard}")
    return OK


if __name__ == "__main__":
    sys.exit(report_errors(main))
