"""Log and event files on a full disk, for which a limit on the size of files stands: it fails in the same place."""

import logging
import subprocess
import sys

import pytest

PROGRAM = """
import logging, resource, signal, sys
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.optional_files import make_event_writer

folder, kind = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logger = setup_logger("maskrcnn_benchmark", folder)
writer = make_event_writer(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for number in range(100):
    if kind == "log":
        logger.info("number %d with many words behind it, so that a file is soon full", number)
    else:
        writer.add_scalar("number", number, number)
        writer.flush()
writer.close()
logger.info("the end")
setup_logger("maskrcnn_benchmark", "", 1)
"""


@pytest.mark.parametrize(("kind", "name"), [("log", "log.txt"), ("events", "the event file in ")])
def test_full_disk_is_reported_once(tmp_path, kind, name):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), kind], capture_output=True, text=True, timeout=600, check=True
    )
    reports = [line for line in ended.stdout.splitlines() if "cannot be written: File too large" in line]
    assert len(reports) == 1 and name in reports[0] and "WARNING" in reports[0]
    assert "the end" in ended.stdout and "Traceback" not in ended.stderr, ended.stderr


def test_other_mistakes_in_records_are_still_shown(capsys):
    from maskrcnn_benchmark.utils.optional_files import LogStream

    logger = logging.Logger("other")
    logger.addHandler(LogStream(sys.stdout))
    logger.warning("%d", "no number")
    assert "Traceback" in capsys.readouterr().err
