import os
from pathlib import Path

import pytest
from spotesm.base.durable import replacing, write_json


def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert os.listdir(tmp_path) == ["x.json"]


def test_leftovers_of_killed_attempts_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.json.abc123.tmp").write_text("half")
    (tmp_path / ".y.json.abc123.tmp").write_text("another file's")
    write_json(tmp_path / "x.json", {})
    assert sorted(os.listdir(tmp_path)) == [".y.json.abc123.tmp", "x.json"]


def test_results_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640
