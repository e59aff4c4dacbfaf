"""What many tests share: real data, the collection of tiny models, and no colour."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from fetch_data import fetch
from xdist.scheduler import LoadScopeScheduling

# The same examples everywhere, and no failures for being slow on a busy machine.
hypothesis.settings.register_profile("isthmus", deadline=None, derandomize=True)
hypothesis.settings.load_profile("isthmus")

ROOT = Path(__file__).resolve().parent.parent
# What is printed into a pipe has a width of its own, which a runner of tests may have set otherwise.
os.environ.pop("COLUMNS", None)
# One cache of kernels, and of the parts of C libraries that zig builds, for all tests and what they start.
CACHE = ROOT / "build" / "cache"
os.environ["ISTHMUS_CACHE"] = str(CACHE)
os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(CACHE / "zig")

# The folders of tests that compile most come first, the longest first of all: a file of a minute that starts
# last keeps one processor waiting.
LONG = (
    "e2e",
    "kernels",
    "zoo",
    "quantizer",
    "cli",
    "packages",
    "targets",
    "runtime",
    "tools",
    "matrix",
    "codegen",
)
# Files whose tests share nothing and take long.
APART = ("zoo/test_zoo.py", "e2e/test_integer_chips.py", "e2e/test_chips.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(LONG)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """A fifth of the time of collecting ten thousand tests is the garbage collector's, which finds nothing
    there, nor later: so it does not look."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class _Scheduling(LoadScopeScheduling):
    """A file of tests on each processor; tests that share nothing, and take minutes, one by one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return nodeid if file.endswith(APART) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> None:
    """Name at once what failed: a run that is cut off never comes to its summary."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if report.failed and reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(f"FAILED {report.nodeid} ({report.when})")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """A file of tests/data.lock by name; fetched on first use, and an error if it cannot be had."""
    return fetch


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model: paraphrase-MiniLM-L3-v2, fp32, opset 17."""
    return fetch("paraphrase-MiniLM-L3-v2.onnx")


@pytest.fixture(scope="session")
def zoo() -> Path:
    """A folder of tiny exported models with stored outputs, where $ISTHMUS_ZOO names one."""
    folder = os.environ.get("ISTHMUS_ZOO")
    if not folder:
        pytest.skip("ISTHMUS_ZOO is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"ISTHMUS_ZOO={folder} is not a folder")
    return Path(folder)
