"""What a user reads who asks for help or types something wrong, compared whole."""

from pathlib import Path

import pytest
from spotesm.__main__ import COMMANDS, main

HELP = Path(__file__).parents[1] / "data/help"
WRONG = {
    "unknown-command": ["embd", "my.fasta"],
    "missing-fasta": ["embed", "--name", "x"],
    "unknown-option": ["embed", "my.fasta", "--layer", "3"],
}


def said_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return captured.out + captured.err, code


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said, code = said_by([command, "--help"] if command else ["--help"], capsys)
    assert code == 0
    assert said == (HELP / f"{command or 'spotesm'}.txt").read_text()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said, code = said_by(WRONG[name], capsys)
    assert code == 2
    assert said == (HELP / f"{name}.txt").read_text()


def test_every_help_has_a_line_to_copy() -> None:
    for command in COMMANDS:
        text = (HELP / f"{command}.txt").read_text()
        assert f"  spotesm {command} " in text
