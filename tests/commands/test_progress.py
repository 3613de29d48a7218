"""How far a long command says that it is."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from checksums import restate_all
from merged import write_merged
from rich.console import Console
from spotesm.commands import progress as module
from spotesm.commands.progress import lines, progress
from spotesm.commands.verify import stored_records
from spotesm.merged.integrity import check_values
from spotesm.merged.reader import Embeddings


def test_without_a_terminal_there_is_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0, 59, 60, 119, 120])
    advance = lines("out.csv", 5000, "records", lambda: next(seconds))
    for _ in range(4):
        advance(1000)
    assert capsys.readouterr() == (
        "",
        "out.csv: 2,000 of 5,000 records\nout.csv: 4,000 of 5,000 records\n",
    )


def test_a_terminal_has_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(module, "Console", lambda **_: console)
    with progress("[out].csv", 8, "records") as advance:
        advance(2)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(r"\[out\]\.csv \S+ +25% ", text)
    assert shown.getvalue().endswith("\x1b[1A\x1b[2K")


N = 8  # more than two blocks


@pytest.mark.parametrize(
    "look",
    [lambda file, told: list(stored_records(file, told)), check_values],
    ids=["records", "values"],
)
def test_verify_is_at_the_end_when_all_has_been_looked_at(
    tmp_path: Path, look: Callable[[Embeddings, Callable[[int], object]], object]
) -> None:
    values = np.zeros((N, 320), np.float32)
    path = write_merged(tmp_path / "embeddings.h5", [f"p{i}" for i in range(N)], mean_6=values)
    with h5py.File(path, "r+") as file:
        restate_all(file)
    told: list[int] = []
    with Embeddings(path) as embeddings:
        look(embeddings, told.append)
    assert told == [3, 3, 2]
