"""A plugin of pytest for coverage: what is executed is known by the test file that wanted it."""

import os
from collections.abc import Iterator

import coverage
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Name the file for this process and for all that the test starts."""
    file = str(item.path.relative_to(item.config.rootpath))
    os.environ["SPOTESM_TEST_FILE"] = file
    if (measured := coverage.Coverage.current()) is not None:
        measured.switch_context(file)
    return (yield)
