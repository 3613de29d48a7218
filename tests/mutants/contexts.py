"""A plugin of pytest for coverage: what is executed is known by the test file that wanted it."""

import os
from collections.abc import Iterator
from multiprocessing import forkserver

import coverage
import pytest

FILE = "SPOTESM_TEST_FILE"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Name the file for this process and for all that the test starts."""
    file = str(item.path.relative_to(item.config.rootpath))
    if os.environ.get(FILE) != file:
        os.environ[FILE] = file
        # A server hands on the environment that it was started with; the next one has this.
        forkserver._forkserver._stop()
    if (measured := coverage.Coverage.current()) is not None:
        measured.switch_context(file)
    return (yield)
