import errno
import os
import stat
from pathlib import Path

import pytest
from spotesm.base import durable
from spotesm.base.durable import make_directory, read_json, replacing, replacing_all, write_json
from spotesm.base.failures import explain_host_fault

NOT_SUPPORTED = [
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EBADF),
    errno.EISDIR,
]


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


@pytest.mark.parametrize("name", ["x.json", "x", "x.json.y", "[x]", "x?.json", ".x"])
def test_leftovers_of_other_names_stay(tmp_path: Path, name: str) -> None:
    others = {"x.json", "x", "x.json.y", "[x]", "x?.json", ".x"} - {name}
    for other in (name, *others):
        (tmp_path / f".{other}.abc_1234.tmp").write_text("half")
    (tmp_path / f"{name}.abc_1234.tmp").write_text("the user's")
    write_json(tmp_path / name, {})
    left = {f".{other}.abc_1234.tmp" for other in others} | {name, f"{name}.abc_1234.tmp"}
    assert set(os.listdir(tmp_path)) == left


def test_many_files_look_at_their_folders_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(
        os, "listdir", lambda folder, look=os.listdir: looked.append(folder) or look(folder)
    )
    paths = [tmp_path / f"{folder}/{i}.fasta" for folder in "ab" for i in range(30)]
    for text in ("first", "second"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a/.7.fasta.abc_1234.tmp").write_text("half")
        looked.clear()
        with replacing_all(paths) as temporaries:
            for temporary in temporaries:
                temporary.write_text(text)
        assert len(looked) == 2
        assert {path.read_text() for path in paths} == {text}
        assert sorted((tmp_path / "a").iterdir()) == sorted(paths[:30])
    with pytest.raises(RuntimeError), replacing_all(paths) as temporaries:
        temporaries[0].write_text("third")
        raise RuntimeError
    assert {path.read_text() for path in paths} == {"second"}
    assert sorted((tmp_path / "a").iterdir()) == sorted(paths[:30])


def test_results_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640


def fail_on_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    durable._warn_of_power_cuts.cache_clear()


@pytest.mark.parametrize("number", NOT_SUPPORTED)
def test_where_folders_cannot_be_flushed_it_goes_on_with_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    fail_on_folders(monkeypatch, number)
    for folder in ("a/b", "a/c"):
        make_directory(tmp_path / folder)
        write_json(tmp_path / folder / "x.json", {"is": folder})
        assert read_json(tmp_path / folder / "x.json") == {"is": folder}
    assert caplog.text.count(f"cannot flush folders ({os.strerror(number)})") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_the_disk_cannot_flush_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_on_folders(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_json(tmp_path / "x.json", {})
    assert explain_host_fault(caught.value).startswith(f"{tmp_path}")


@pytest.mark.parametrize("number", NOT_SUPPORTED)
def test_where_files_have_no_modes_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_disk_that_fails_while_a_mode_is_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "x")

    monkeypatch.setattr(os, "chmod", fail)
    with pytest.raises(OSError, match="x") as caught:
        write_json(tmp_path / "x.json", {})
    assert explain_host_fault(caught.value).startswith(f"{tmp_path / 'x.json'}: ")
    assert os.listdir(tmp_path) == []
