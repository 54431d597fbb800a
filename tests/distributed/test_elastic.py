"""A worker of torchrun is killed; the launcher starts all of them again, and they go on from the last checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

from toy_run import write_config

from maskrcnn_benchmark.utils.weight_files import read_checkpoint

PROGRAM = """
import os, signal, sys
from toy_run import MeanModel, load_tool
from maskrcnn_benchmark.engine.training import training_run

class KilledModel(MeanModel):
    calls = 0

    def forward(self, *arguments, **named):
        self.calls += 1
        is_first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if is_first_attempt and os.environ["RANK"] == "1" and self.calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*arguments, **named)

training_run.build_detection_model = lambda cfg: KilledModel()
sys.exit(load_tool().main(["--config-file", sys.argv[1]]))
"""
TESTS = Path(__file__).parents[1]


def test_killed_worker(tmp_path, bert_vocabulary):
    config = write_config(tmp_path, bert_vocabulary)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2 --max-restarts=1 --monitor-interval=0.1"
    finished = subprocess.run(
        [sys.executable, *launcher.split(), str(program), str(config)],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "failed (exitcode: " in finished.stderr, "the launcher noticed, one of them or the other that it talked to"
    log = (tmp_path / "out" / "log.txt").read_text()
    starts = [line.split("Start training at ")[1] for line in log.splitlines() if "Start training at " in line]
    assert starts == ["iteration 0 of 8", "iteration 3 of 8"] and log.count("Processes: 2") == 2
    assert read_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 8
