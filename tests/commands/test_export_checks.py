"""What an export must not do: replace what it is made from, fail half way, or leave anything."""

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from merged import SEQUENCE, write_merged
from sequences import write_fasta
from spotesm.__main__ import main
from spotesm.base.failures import InputError
from spotesm.commands.export import FORMATS, choose_keys
from spotesm.commands.exports import checks, npz, records
from spotesm.merged import reader
from spotesm.merged.reader import Embeddings

N, D = 11, 4
IDS = ["", "sp|P1/2|X", "..", "é", "Case", *(f"p{i}" for i in range(N - 5))]
ROWS = np.arange(N * D, dtype=np.float32).reshape(N, D)
FILES = [name for name, format in FORMATS.items() if not format.is_folder]
FOLDERS = [name for name, format in FORMATS.items() if format.is_folder]
ONE_PLACE = [name for name, format in FORMATS.items() if format.place]
OPTIONS: dict[str, list[str]] = {}  # what each format asks for


@pytest.fixture(scope="module", autouse=True)
def _sequences(tmp_path_factory: pytest.TempPathFactory) -> None:
    fasta = write_fasta(tmp_path_factory.mktemp("fasta") / "in.fasta", [(i, SEQUENCE) for i in IDS])
    for name, format in FORMATS.items():
        OPTIONS[name] = ["--fasta", str(fasta)] if format.needs_fasta else []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_merged(tmp_path / "embeddings.h5", IDS, mean_6=ROWS)


def state_of(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_refused(arguments: list[object], folder: Path, message: str) -> None:
    """The command ends with one line, and leaves the folder as it was."""
    before = state_of(folder)
    with pytest.raises(SystemExit) as caught:
        main(["export", *map(str, arguments), *OPTIONS.get(arguments[0], [])])
    said = str(caught.value.code)
    assert message in said
    assert "\n" not in said
    assert state_of(folder) == before


# -- which output ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["biotrainer", "h5ad", "csv"])
def test_one_of_several_outputs_must_be_named(format: str) -> None:
    """Where none is the file's first one; of one alone there is no question."""
    one, two = (
        SimpleNamespace(path=Path("embeddings.h5"), outputs=outputs, key=None)
        for outputs in (["mean/6"], ["mean/6", "bos/6"])
    )
    assert choose_keys(one, FORMATS[format], None) == ["mean/6"]
    with pytest.raises(InputError, match=f"for {format}, name one with --key: mean/6, bos/6"):
        choose_keys(two, FORMATS[format], None)


# -- its own input ---------------------------------------------------------------------------------


def same(file: Path) -> Path:
    return file


def hard_link(file: Path) -> Path:
    os.link(file, file.with_name("hard"))
    return file.with_name("hard")


def symbolic_link(file: Path) -> Path:
    file.with_name("soft").symlink_to(file)
    return file.with_name("soft")


def link_to_a_link(file: Path) -> Path:
    symbolic_link(file)
    file.with_name("softer").symlink_to("soft")
    return file.with_name("softer")


def through_a_folder(file: Path) -> Path:
    (file.parent / "sub").mkdir()
    return file.parent / "sub" / ".." / file.name


def relative(file: Path) -> Path:
    return Path(file.name)


def relative_with_dots(file: Path) -> Path:
    return Path("..", file.parent.name, file.name)


def in_a_linked_folder(file: Path) -> Path:
    (file.parent / "linked").symlink_to(file.parent)
    return file.parent / "linked" / file.name


WAYS = [
    *(same, hard_link, symbolic_link, link_to_a_link, through_a_folder),
    *(relative, relative_with_dots),
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("way", WAYS)
def test_the_input_is_never_replaced(
    file: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path], Path], format: str
) -> None:
    monkeypatch.chdir(file.parent)
    output = way(file)
    assert_refused([format, file, output], file.parent, f"{output}: is {file} itself")
    assert_refused([format, output, file], file.parent, f"{file}: is {output} itself")


@pytest.mark.parametrize("format", FILES)
def test_nor_in_a_linked_folder(file: Path, format: str) -> None:
    output = in_a_linked_folder(file)
    with pytest.raises(SystemExit, match="itself, which would be lost"):
        main(["export", format, str(file), str(output), *OPTIONS[format]])
    np.testing.assert_array_equal(Embeddings(file)[:], ROWS)


@pytest.mark.parametrize("format", [name for name in FORMATS if FORMATS[name].needs_fasta])
@pytest.mark.parametrize("place", [0, 1])
def test_nor_is_a_fasta(file: Path, tmp_path: Path, format: str, place: int) -> None:
    for name in ("a.fasta", "b.fasta"):
        (tmp_path / name).write_text(">p\nAC\n")
    fasta = [tmp_path / "a.fasta", tmp_path / "b.fasta"]
    arguments = [format, file, fasta[place], "--fasta", fasta[0], "--fasta", fasta[1]]
    assert_refused(arguments, tmp_path, f"{fasta[place]}: is {fasta[place]} itself")


@pytest.mark.parametrize("format", FILES)
def test_nor_is_the_result_of_another_run(file: Path, tmp_path: Path, format: str) -> None:
    other = Path(shutil.copy(file, tmp_path / "other.h5"))
    assert_refused([format, file, other], tmp_path, "is the embeddings.h5 of a run")


# -- where it would lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_the_output_is_of_the_right_kind(file: Path, tmp_path: Path, format: str) -> None:
    output = tmp_path / "there"
    if format in FOLDERS:
        output.write_text("mine")
        message = "is a file, but this format makes a folder"
    else:
        output.mkdir()
        message = "is a folder, but this format makes a file"
    assert_refused([format, file, output], tmp_path, f"{output}: {message}")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("none/x", "the folder none is not there; make it first"),
        ("none/deeper/x", "the folder none/deeper is not there"),
        ("text/x", "the folder text is not there"),
        ("/proc/x", "/proc/x: cannot be written (No such file or directory)"),
        ("n" * 251, "cannot be written (File name too long)"),
        ("n" * 300, "cannot be written (File name too long)"),
        ("nowhere", "is a link that leads nowhere"),
        ("loop", "loop"),
    ],
)
def test_the_place_is_checked_first(
    file: Path, monkeypatch: pytest.MonkeyPatch, format: str, output: str, message: str
) -> None:
    monkeypatch.chdir(file.parent)
    Path("text").write_text("mine")
    Path("nowhere").symlink_to("not/there")
    Path("loop").symlink_to("loop")
    assert_refused([format, "embeddings.h5", output], Path(), message)


@pytest.mark.parametrize("format", FILES)
def test_a_device_or_a_pipe_is_not_replaced(file: Path, tmp_path: Path, format: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(SystemExit, match="is no regular file"):
            main(["export", format, str(file), str(output), *OPTIONS[format]])
        assert not output.is_file()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.skipif(os.getuid() != 0, reason="root alone can become nobody")
def test_rights_are_checked_first(file: Path, format: str) -> None:
    """As a user who may read all, and write nothing here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(file, folder)
        (folder / "there").mkdir(mode=0o755)
        before = state_of(folder)
        for output in (folder / "x", folder / "there" / "x", folder / "there"):
            if output.is_dir() and format in FILES:
                continue
            child = os.fork()
            if child == 0:
                said = "nothing"
                try:
                    os.setgroups([])
                    os.setresuid(65534, 65534, 65534)
                    main(["export", format, str(folder / file.name), str(output), *OPTIONS[format]])
                except SystemExit as end:
                    said = str(end.code)
                finally:
                    os._exit(42 if "(Permission denied)" in said or "permissions" in said else 43)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert state_of(folder) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_protected_output_stays(
    file: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "x"
    output.mkdir() if format in FOLDERS else output.write_text("mine")
    monkeypatch.setattr(checks.os, "access", lambda path, mode: path != output or mode != os.W_OK)
    assert_refused([format, file, output], tmp_path, "may not be written; mend its permissions")


# -- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ONE_PLACE)
@pytest.mark.parametrize("twins", [(0, 1), (0, N - 1), (2, 3), (4, 9), (N - 2, N - 1)])
@pytest.mark.parametrize("repeated", ["twice", "", "é/ä", "x" * 300])
def test_repeated_ids_are_found_first(
    tmp_path: Path, format: str, twins: tuple[int, int], repeated: str
) -> None:
    ids = [repeated if i in twins else f"p{i}" for i in range(N)]
    file = write_merged(tmp_path / "embeddings.h5", ids, mean_6=ROWS)
    message = f"several records have the id {repeated!r}, but {format} has one place for each"
    assert_refused([format, file, tmp_path / "x"], tmp_path, message)


@pytest.mark.parametrize("format", ONE_PLACE)
def test_ids_that_differ_have_places_of_their_own(tmp_path: Path, format: str) -> None:
    """Whatever is escaped, cut, or a folder's name."""
    ids = ["", "%", "%25", ".", "..", "%2E", "a/b", "a%2Fb", "A/b", "x" * 300, "x" * 301]
    file = write_merged(tmp_path / "embeddings.h5", ids, mean_6=ROWS)
    main(["export", format, str(file), str(tmp_path / "out"), *OPTIONS[format]])
    found = {name: values.tolist() for name, values in read_back(format, tmp_path / "out")}
    assert found == dict(zip(ids, ROWS.tolist(), strict=True))


def read_back(format: str, output: Path) -> list[tuple[str, np.ndarray]]:
    if format == "h5":
        with h5py.File(output) as file:
            return [(item.attrs["original_id"], item[:]) for item in file.values()]
    contents = [torch.load(path, weights_only=True) for path in output.iterdir()]
    return [(one["label"], one["mean_representations"][6].numpy()) for one in contents]


@pytest.mark.parametrize("twins", [(0, 1), (0, N - 1), (5, 7)])
def test_files_that_differ_in_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: tuple[int, int]
) -> None:
    """On a file system that tells them apart both are written; else none is."""
    ids = [f"p{i}" for i in range(N)]
    ids[twins[0]], ids[twins[1]] = "1abc_A", "1ABC_a"
    file = write_merged(tmp_path / "embeddings.h5", ids, mean_6=ROWS)
    assert not checks.ignores_case(tmp_path)
    main(["export", "pt", str(file), str(tmp_path / "both")])
    assert {name for name, _ in read_back("pt", tmp_path / "both")} == set(ids)
    monkeypatch.setattr(checks, "ignores_case", lambda folder: folder == tmp_path)
    message = "the ids '1abc_A' and '1ABC_a' would have one place in"
    assert_refused(["pt", file, tmp_path / "none"], tmp_path, message)
    main(["export", "h5", str(file), str(tmp_path / "x.h5")])
    assert {name for name, _ in read_back("h5", tmp_path / "x.h5")} == set(ids)


def test_a_file_system_that_ignores_case_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.Path, "exists", lambda path: bool(list(path.parent.iterdir())))
    assert checks.ignores_case(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("n", [0, 1])
def test_files_of_no_records_and_of_one(tmp_path: Path, format: str, n: int) -> None:
    file = write_merged(tmp_path / "embeddings.h5", IDS[:n], mean_6=ROWS[:n])
    main(["export", format, str(file), str(tmp_path / "out"), *OPTIONS[format]])
    if format in ONE_PLACE:
        assert len(read_back(format, tmp_path / "out")) == n


# -- npz: numpy's texts are all as wide as the longest ------------------------------------------


@pytest.mark.parametrize("place", [0, 5, N - 1])
def test_one_long_id_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    n, length = 2_000, 20_000
    ids = [f"é{i}" for i in range(n)]
    ids[place] = "ü" * length
    file = write_merged(
        tmp_path / "embeddings.h5", ids, mean_6=np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    )
    monkeypatch.setattr(npz, "BYTES_AT_ONCE", 1 << 20)
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 500)
    monkeypatch.setattr(reader, "IDS_AT_ONCE", 500)
    tracemalloc.start()
    try:
        main(["export", "npz", str(file), str(tmp_path / "x.npz")])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # of 160 MB
    finally:
        tracemalloc.stop()
    assert (tmp_path / "x.npz").stat().st_size < 2 << 20
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["ids"].dtype == np.dtype(f"<U{length}")
        assert arrays["ids"].tolist() == ids
        np.testing.assert_array_equal(arrays["embeddings"].ravel(), np.arange(2 * n))


@pytest.mark.parametrize("more", [0, 1])
def test_what_nobody_could_load_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(npz, "MOST_BYTES_OF_IDS", 4 * N * len("sp|P1/2|X") - more)
    if more:
        message = f"an id has 9 characters, and numpy makes all {N} as wide"
        assert_refused(["npz", file, tmp_path / "x.npz"], tmp_path, message)
    else:
        main(["export", "npz", str(file), str(tmp_path / "x.npz")])
        with np.load(tmp_path / "x.npz") as arrays:
            assert arrays["ids"].tolist() == IDS
            np.testing.assert_array_equal(arrays["embeddings"], ROWS)


# -- what it is made from --------------------------------------------------------------------------


def test_an_export_is_no_embeddings_file(file: Path, tmp_path: Path) -> None:
    main(["export", "h5", str(file), str(tmp_path / "x.h5")])
    with h5py.File(tmp_path / "x.h5") as exported:
        assert exported.attrs["format"] == "spotesm-export"
    message = "x.h5: is an export, one dataset a protein; name the embeddings.h5 it was made from"
    assert_refused(["npz", tmp_path / "x.h5", tmp_path / "y.npz"], tmp_path, message)
    with pytest.raises(SystemExit, match="is an export"):
        main(["verify", str(tmp_path / "x.h5"), str(tmp_path / "none.fasta")])
    main(["export", "h5", str(file), str(tmp_path / "x.h5")])  # and may be replaced


@pytest.mark.parametrize("key", ["lengths", "digests", "residues/offsets", "bos/6", "mean/06", ""])
@pytest.mark.parametrize("format", FORMATS)
def test_keys_that_are_none(file: Path, tmp_path: Path, format: str, key: str) -> None:
    arguments = [format, file, tmp_path / "x", "--key", key]
    assert_refused(arguments, tmp_path, f"has no {key}; ")


@pytest.mark.parametrize("format", FORMATS)
def test_damage_met_on_the_way_is_said_in_one_line(tmp_path: Path, format: str) -> None:
    file = write_merged(tmp_path / "embeddings.h5", IDS)
    with h5py.File(file, "a") as writer:
        dataset = writer.create_dataset("mean/6", data=ROWS, chunks=(3, D), compression="gzip")
        place = dataset.id.get_chunk_info(2).byte_offset
    content = bytearray(file.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["export", format, str(file), str(tmp_path / "x"), *OPTIONS[format]])
    assert f"{file}: is damaged" in caught.value.code
    assert "\n" not in caught.value.code
    left = list(tmp_path.rglob("*"))
    assert set(left) <= {file, tmp_path / "x", *(tmp_path / "x").glob("*.pt")}


def test_without_letters_of_the_ids(tmp_path: Path) -> None:
    """In a locale of ASCII, with folders and ids of others."""
    folder = tmp_path / "Ö"
    folder.mkdir()
    file = write_merged(folder / "embeddings.h5", IDS, mean_6=ROWS)
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(checks.__file__).parents[3])}
    bare |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for format in FORMATS:
        command = [sys.executable, "-m", "spotesm", "export", format, file, folder / f"ß.{format}"]
        ended = subprocess.run([*command, *OPTIONS[format]], env=bare, capture_output=True)
        assert (ended.returncode, ended.stderr) == (0, b""), format
    with np.load(folder / "ß.npz") as arrays:
        assert arrays["ids"].tolist() == IDS
    for format in ONE_PLACE:
        found = {
            name: values.tolist() for name, values in read_back(format, folder / f"ß.{format}")
        }
        assert found == dict(zip(IDS, ROWS.tolist(), strict=True))
