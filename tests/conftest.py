"""What every test can use, and the rules of a test run.

* ``slow`` tests run with ``--slow`` only (or where ``-m`` names the marker).
* ``gpu`` tests, and the CUDA half of tests that take ``device``, are skipped with a reason where there is no CUDA.
* The summary says how many parity tests ran; a run of the whole suite in which none ran is a failure.
* ``--parity-table FILE`` writes the largest measured difference of every golden comparison beside its tolerance.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# No test reaches the network. Set before anything imports huggingface_hub, which reads it once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait let other test processes work; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import golden_tools
import tiny_detector
import torch

BERT_DIR = Path(__file__).parent / "golden" / "bert"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--parity-table", metavar="FILE", help="write measured differences and tolerances to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Shares the processors out among the test processes, and among the programs that a test starts."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, processors // workers)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    config.pluginmanager.register(ParityReport(config), "parity-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow") and "slow" not in config.getoption("markexpr"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if not item.get_closest_marker("slow")]
    if not torch.cuda.is_available():
        no_cuda = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(no_cuda)


class ParityReport:
    """Counts the parity tests that ran and collects what they measured; with xdist, the controlling process does."""

    def __init__(self, config: pytest.Config) -> None:
        self.is_whole_suite = config.args == config.getini("testpaths") and not (
            config.getoption("keyword") or config.getoption("markexpr") or config.getoption("collectonly")
        )
        self.outcomes = {"passed": 0, "failed": 0}
        self.rows: list[tuple[str, golden_tools.Measurement]] = []
        self.table = config.getoption("--parity-table")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        golden_tools.MEASUREMENTS.clear()
        try:
            return (yield)
        finally:
            item.user_properties += [("parity", tuple(row)) for row in golden_tools.MEASUREMENTS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        if "parity" in report.keywords and report.outcome in self.outcomes:
            self.outcomes[report.outcome] += 1
        for kind, row in report.user_properties:
            if kind == "parity":
                self.rows.append((report.nodeid, golden_tools.Measurement(*row)))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_missing(session.config) and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.table and not hasattr(session.config, "workerinput"):
            write_parity_table(Path(self.table), self.rows)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        ran = sum(self.outcomes.values())
        line = f"{ran} parity tests ran: {self.outcomes['passed']} passed, {self.outcomes['failed']} failed"
        missing = self._is_missing(terminalreporter.config)
        if missing:
            line = "no parity test ran, so this run proves nothing about equality with the original: failure"
        bad = missing or self.outcomes["failed"]
        terminalreporter.write_sep("=", line, red=bool(bad), green=not bad)

    def _is_missing(self, config: pytest.Config) -> bool:
        return self.is_whole_suite and not hasattr(config, "workerinput") and not sum(self.outcomes.values())


def write_parity_table(path: Path, rows: list[tuple[str, "golden_tools.Measurement"]]) -> None:
    """Writes one Markdown row for every golden comparison of the run, in the order of the test ids."""
    lines = ["| test | array | largest difference | atol | rtol |", "|---|---|---|---|---|"]
    for nodeid, row in sorted(rows):
        lines.append(f"| `{nodeid}` | {row.name} | {row.difference:.2e} | {row.atol:g} | {row.rtol:g} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Runs the test on the CPU and, where there is one, on a GPU."""
    return torch.device(request.param)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the configuration and the vocabulary of a two-layer text encoder, without weights."""
    return tiny_detector.make_text_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def bert_vocabulary() -> str:
    """Folder with the published vocabulary of bert-base-uncased; skips where the checkout does not have it."""
    if not (BERT_DIR / "vocab.txt").is_file():
        pytest.skip(f"the vocabulary of bert-base-uncased is not in {BERT_DIR}")
    return str(BERT_DIR)
