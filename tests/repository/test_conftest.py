"""The rules of a test run, on small suites of their own."""

import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parents[1]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with this project's conftest.py and markers, and no tests yet."""
    (pytester.path / "tests").mkdir()
    for name in ("conftest.py", "golden_tools.py"):
        shutil.copy(TESTS / name, pytester.path / "tests")
    shutil.copy(TESTS.parent / "pyproject.toml", pytester.path)
    return pytester


def write(suite: pytest.Pytester, text: str) -> None:
    (suite.path / "tests" / "test_it.py").write_text("import pytest\n" + text)


def test_whole_suite_without_a_parity_test_fails(suite):
    write(suite, "def test_a(): pass\n")
    result = suite.runpytest("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*no parity test ran*"])


def test_skipped_parity_tests_do_not_count(suite):
    write(suite, "@pytest.mark.parity\ndef test_a(): pytest.skip('no golden')\n")
    assert suite.runpytest().ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("arguments", [["tests/test_it.py"], ["-k", "test_a"]])
def test_part_of_the_suite_may_lack_parity_tests(suite, arguments):
    write(suite, "def test_a(): pass\n")
    assert suite.runpytest(*arguments).ret == pytest.ExitCode.OK


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
def test_summary_counts_parity_tests(suite, arguments):
    write(suite, "@pytest.mark.parity\n@pytest.mark.parametrize('n', range(3))\ndef test_a(n): assert n != 1\n")
    result = suite.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*3 parity tests ran: 2 passed, 1 failed*"])


def test_parity_table_lists_measured_differences(suite):
    write(
        suite,
        "import golden_tools, numpy, torch\n"
        "@pytest.mark.parity\n"
        "def test_a(tmp_path):\n"
        "    numpy.savez(tmp_path / 'g.npz', x=numpy.float32([1, 2]))\n"
        "    golden_tools.assert_golden(torch.tensor([1.0, 2.25]), numpy.load(tmp_path / 'g.npz'), 'x', 0.5)\n",
    )
    assert suite.runpytest("-n", "1", "--parity-table", "table.md").ret == pytest.ExitCode.OK
    assert "| `tests/test_it.py::test_a` | x | 2.50e-01 | 0.5 | 0 |" in (suite.path / "table.md").read_text()


@pytest.mark.parametrize(("arguments", "passed"), [([], 1), (["--slow"], 2), (["-m", "slow"], 1)])
def test_slow_tests_wait_for_the_option(suite, arguments, passed):
    write(suite, "@pytest.mark.slow\ndef test_a(): pass\n@pytest.mark.parity\ndef test_b(): pass\n")
    suite.runpytest(*arguments).assert_outcomes(passed=passed, deselected=2 - passed)


def test_cuda_half_of_a_device_test_is_skipped_with_a_reason_without_cuda(suite, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write(suite, "def test_a(device): assert device.type == 'cpu'\n")
    result = suite.runpytest("tests/test_it.py")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*needs a CUDA device*"])
