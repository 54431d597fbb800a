"""A process whose fellow ends, of a full disk for example, adds one line to the message of that one."""

import os
import subprocess
import sys

import pytest
from published_command import free_port

from maskrcnn_benchmark.cli.console import BAD_INPUT
from maskrcnn_benchmark.utils import comm

PROGRAM = """
import os, sys
from maskrcnn_benchmark.cli.console import report_errors
from maskrcnn_benchmark.engine.launch import process_group
from maskrcnn_benchmark.utils import comm

def run():
    with process_group("cpu"):
        comm.synchronize()
        if comm.get_rank() == 1:
            os._exit(7)
        comm.all_gather("more")
    return 0

sys.exit(report_errors(run))
"""


def test_lost_process():
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said, _ = (process.communicate(timeout=600)[1] for process in processes)
    assert [process.returncode for process in processes] == [BAD_INPUT, 7]
    assert said.startswith("glip: error: another process of the run has ended (Connection ") and said.count("\n") == 1
    assert said.endswith("its own message says why\n")


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="^shapes differ$"), comm.lost_process_in_one_line():
        raise RuntimeError("shapes differ")
