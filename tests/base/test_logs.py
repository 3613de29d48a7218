"""A log whose disk is full is told once, and ends nothing."""

import logging
from pathlib import Path

import pytest
from spotesm.base.logs import _LogFile


def test_a_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = _LogFile(tmp_path / "job.log")
    handler.stream.close()
    handler.stream = open("/dev/full", "w")  # noqa: SIM115
    for message in ("one", "two"):
        handler.emit(logging.makeLogRecord({"msg": message}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no log: ")
    assert str(tmp_path / "job.log") in line
    assert "o space left" in line
