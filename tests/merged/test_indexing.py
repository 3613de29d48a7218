"""`Embeddings` is indexed as numpy is, and asked by id; whatever else is asked for is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, basic_indices
from merged import write_merged
from spotesm.base.failures import InputError
from spotesm.merged.look_ups import LookUpError
from spotesm.merged.reader import Embeddings

N, D = 11, 4
IDS = [
    *("first", "sp|P12345|ABC_HUMAN", "tr|Q00001|X_YEAST", "twice", "", "sp|P67890|TWO_A"),
    *("twice", "tr|P67890|TWO_B", "A0A024", "sp|A0A024|EXACT_WINS", "é|last"),
]
ROWS = np.arange(N * D, dtype=np.float32).reshape(N, D)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexing")
    residues = np.arange(2 * N * D, dtype=np.float32).reshape(2 * N, D)
    return write_merged(
        folder / "embeddings.h5",
        IDS,
        mean_6=ROWS,
        bos_6=-ROWS,
        residues_6=residues,
        residues_offsets=np.arange(N + 1) * 2,
    )


@pytest.fixture
def embeddings(path: Path) -> Embeddings:
    with Embeddings(path) as embeddings:
        yield embeddings


# -- by place, as numpy ----------------------------------------------------------------------------

numbers = st.integers(-N, N - 1)
lists = st.lists(numbers, max_size=2 * N)
asked = st.one_of(
    st.slices(N),
    st.builds(slice, *[st.none() | st.integers(-2 * N, 2 * N)] * 2),
    basic_indices((N,), allow_ellipsis=False, allow_newaxis=False, max_dims=1),
    numbers,
    numbers.map(np.int16),
    lists,
    lists.map(lambda rows: np.array(rows, np.int8)),
    lists.map(lambda rows: np.array([row % N for row in rows], np.uint64)),
    arrays(bool, N),
    arrays(bool, N).map(np.ndarray.tolist),
)


@given(asked)
def test_as_numpy_would(path: Path, which: object) -> None:
    if isinstance(which, tuple):
        (which,) = which or (slice(None),)
    expected = ROWS[:0] if isinstance(which, list) and not which else ROWS[which]
    with Embeddings(path) as embeddings, Embeddings(path, as_torch=True) as tensors:
        np.testing.assert_array_equal(embeddings[which], expected)
        assert embeddings[which].dtype == np.float32
        torch.testing.assert_close(tensors[which], torch.from_numpy(expected.copy()))


@given(st.lists(st.integers(-3 * N, 3 * N), min_size=1, max_size=5))
def test_out_of_range_as_numpy_would(path: Path, which: list[int]) -> None:
    wrong = [row for row in which if not -N <= row < N]
    with Embeddings(path) as embeddings:
        if not wrong:
            np.testing.assert_array_equal(embeddings[which], ROWS[which])
            return
        for one in (which, np.array(which)):
            with pytest.raises(IndexError, match=rf"has {N} rows, not row {wrong[0]}$"):
                embeddings[one]
        with pytest.raises(IndexError, match=rf"has {N} rows, not row {wrong[-1]}$"):
            embeddings[wrong[-1]]


@pytest.mark.parametrize("row", [N, -N - 1, 10**30, 2**63])
def test_there_is_no_row_beyond_the_ends(embeddings: Embeddings, row: int) -> None:
    for which in (row, [row], np.array([0, row], object), np.array([row])):
        with pytest.raises(IndexError, match=f"not row {row}"):
            embeddings[which]


@pytest.mark.parametrize("length", [0, 1, N - 1, N + 1])
def test_a_mask_has_a_place_for_each_row(embeddings: Embeddings, length: int) -> None:
    with pytest.raises(IndexError, match=f"has {N} rows, not {length}"):
        embeddings[np.zeros(length, bool)]


@pytest.mark.parametrize(
    "which",
    [
        *(1.0, None, ..., True, np.True_, b"first", {1, 2}, (0, 1), ("first",), (), [0.0, 1.0]),
        *([[0, 1]], [[0], [1, 2]], np.zeros((N, D), bool), [None], [b"first"], [True, "first"]),
        *([0, "first", 2.5], frozenset()),
    ],
    ids=repr,
)
def test_what_is_neither_row_nor_id_is_refused(embeddings: Embeddings, which: object) -> None:
    with pytest.raises(TypeError, match="asked for by number"):
        embeddings[which]


def test_iteration_and_its_reverse(embeddings: Embeddings) -> None:
    np.testing.assert_array_equal(np.stack(list(embeddings)), ROWS)
    np.testing.assert_array_equal(np.stack(list(reversed(embeddings))), ROWS[::-1])


@pytest.mark.parametrize("n", [0, 1])
def test_files_of_no_rows_and_of_one(tmp_path: Path, n: int) -> None:
    path = write_merged(tmp_path / "x.h5", IDS[:n], mean_6=ROWS[:n])
    with Embeddings(path) as embeddings:
        assert len(embeddings) == n
        assert embeddings.ids == list(embeddings.iterate_ids()) == IDS[:n]
        for which in (slice(None), slice(None, None, -1), slice(5, 2), np.zeros(n, bool)):
            np.testing.assert_array_equal(embeddings[which], ROWS[:n][which])
        assert embeddings[[]].shape == (0, D)
        assert list(map(len, embeddings)) == [D] * n
        assert "other" not in embeddings


# -- by id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1, 2, 4, 5, 7, 8, 9, 10])
def test_a_record_is_found_by_its_id(embeddings: Embeddings, row: int) -> None:
    identifier = IDS[row]
    np.testing.assert_array_equal(embeddings[identifier], ROWS[row])
    assert identifier in embeddings
    assert np.str_(identifier) in embeddings
    assert (embeddings.index(identifier), embeddings.count(identifier)) == (row, 1)
    assert embeddings.rows_of(identifier) == [row]


@pytest.mark.parametrize(("accession", "row"), [("P12345", 1), ("Q00001", 2), ("A0A024", 8)])
def test_or_by_its_accession_if_no_id_is_it(
    embeddings: Embeddings, accession: str, row: int
) -> None:
    np.testing.assert_array_equal(embeddings[accession], ROWS[row])
    np.testing.assert_array_equal(
        embeddings.residues(accession)[:, 0], [2 * row * D, (2 * row + 1) * D]
    )
    assert accession in embeddings
    assert embeddings.index(accession) == row


@pytest.mark.parametrize(("identifier", "rows"), [("twice", [3, 6]), ("P67890", [5, 7])])
def test_what_several_records_have(
    embeddings: Embeddings, identifier: str, rows: list[int]
) -> None:
    assert identifier in embeddings
    assert embeddings.rows_of(identifier) == rows
    assert embeddings.count(identifier) == 2
    assert embeddings.index(identifier) == rows[0]
    assert embeddings.index(identifier, rows[0] + 1) == rows[1]
    assert embeddings.index(identifier, -N, -1) == rows[0]
    for which in (identifier, ["first", identifier]):
        said = f"2 records have the id or accession '{identifier}', rows {rows[0]}, {rows[1]};"
        with pytest.raises(KeyError, match=said):
            embeddings[which]
    with pytest.raises(ValueError, match=f"no record there has the id '{identifier}'"):
        embeddings.index(identifier, rows[0] + 1, rows[1])


ACCESSIONS = {
    "NP_268346.1": [0],
    "NP_268346": [0],
    "NP_268346.2": [],
    "WP_000000001": [1, 2, 3, 4, 5, 6],
    "WP_000000001.3": [3],
    "ENSP00000493376": [7],
    "P12345": [8, 9],
    "pgaptmp_1": [10],
    "extdb": [],
}


def test_accessions_have_versions_and_are_told_apart(tmp_path: Path) -> None:
    ids = ["gi|15674171|ref|NP_268346.1|", *(f"WP_000000001.{i}" for i in range(1, 7))]
    ids += ["ENSP00000493376.2", "AF-P12345-F1", "UniRef90_P12345", "gnl|extdb|pgaptmp_1"]
    path = write_merged(tmp_path / "x.h5", ids, mean_6=ROWS[: len(ids)])
    with Embeddings(path) as embeddings, Embeddings(path, accessions=False) as strict:
        for name, rows in ACCESSIONS.items():
            assert embeddings.rows_of(name) == rows
            assert strict.rows_of(name) == [row for row in rows if ids[row] == name]
            if len(rows) == 1:
                np.testing.assert_array_equal(embeddings[name], ROWS[rows[0]])
        with pytest.raises(KeyError, match=r"6 records .*'WP_000000001', rows 1, 2, 3, 4, 5, ...;"):
            embeddings["WP_000000001"]
        np.testing.assert_array_equal(strict[["ENSP00000493376.2"]], ROWS[[7]])
        with pytest.raises(KeyError, match="no record has the id 'ENSP00000493376'"):
            strict["ENSP00000493376"]


@pytest.mark.parametrize(
    ("identifier", "close"),
    [
        ("frist", "did you mean 'first'"),
        ("é|lost", "did you mean 'é|last'"),
        ("P12345|ABC_HUMAN", "did you mean 'sp|P12345|ABC_HUMAN'"),
        ("tvice", "did you mean 'twice'?"),
        ("P1234", None),
        ("ABC_HUMAN", "did you mean 'sp|P12345|ABC_HUMAN'"),
        ("FIRST", None),
        ("0", None),
    ],
)
def test_an_unknown_id_names_close_ones(
    embeddings: Embeddings, identifier: str, close: str | None
) -> None:
    assert identifier not in embeddings
    assert embeddings.count(identifier) == 0
    for which in (identifier, [identifier], ["first", identifier, 3], np.array([identifier])):
        with pytest.raises(LookUpError) as caught:
            embeddings[which]
        assert isinstance(caught.value, KeyError)
        said = str(caught.value)
        assert f"no record has the id {identifier!r}" in said
        assert "\n" not in said
        assert (close in said) if close else "did you mean" not in said
    with pytest.raises(ValueError, match="no record there has the id"):
        embeddings.index(identifier)


def test_of_many_close_ids_three_are_named(tmp_path: Path) -> None:
    ids = [f"protein_{i}" for i in range(9)]
    with Embeddings(write_merged(tmp_path / "x.h5", ids, mean_6=ROWS[:9])) as embeddings:
        with pytest.raises(LookUpError) as caught:
            embeddings["protein_"]
        assert str(caught.value).count("protein_") == 1 + 3


@pytest.mark.parametrize("value", [0, None, 1.5, b"first", ROWS[0], ["first"]], ids=repr)
def test_what_is_no_text_is_no_id(embeddings: Embeddings, value: object) -> None:
    assert value not in embeddings
    assert embeddings.count(value) == 0
    with pytest.raises(ValueError, match="no record there"):
        embeddings.index(value)


@pytest.mark.parametrize("kind", [list, np.array, lambda ids: np.array(ids, object)])
def test_lists_of_ids(embeddings: Embeddings, kind: type) -> None:
    wanted = ["é|last", "first", "P12345", "first", ""]
    np.testing.assert_array_equal(embeddings[kind(wanted)], ROWS[[10, 0, 1, 0, 4]])
    np.testing.assert_array_equal(
        embeddings[["first", -1, np.int64(2), "A0A024"]], ROWS[[0, 10, 2, 8]]
    )


# -- which output ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "embeddings", "mean/6"])
def test_rows_are_those_of_the_first_output(path: Path, key: str | None) -> None:
    with Embeddings(path, key=key) as embeddings:
        assert embeddings.key == "mean/6"
        np.testing.assert_array_equal(embeddings[:], ROWS)


def test_or_of_the_one_that_is_named(path: Path) -> None:
    with Embeddings(path, key="bos/6") as embeddings:
        assert embeddings.key == "bos/6"
        np.testing.assert_array_equal(embeddings["first"], -ROWS[0])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("residues/6", "residues/6 has no one row a record; bos/6, mean/6 has"),
        ("residues/offsets", "has no residues/offsets; it has bos/6, mean/6"),
        ("lengths", "has no lengths; it has bos/6, mean/6"),
        ("digests", "has no digests; it has"),
        ("sequence_ids", "has no sequence_ids; it has"),
        ("windows", "has no windows; it has"),
        ("mean", "has no mean; it has bos/6, mean/6; did you mean 'mean/6'?"),
        ("bos/06", "has no bos/06; it has .*; did you mean 'bos/6'?"),
        ("/mean/6", "has no /mean/6; it has .*; did you mean 'mean/6'?"),
        ("mean/6/", "has no mean/6/; it has"),
        ("mean/33", "has no mean/33; it has .*; did you mean 'mean/6'?"),
        ("mean/٦", "has no mean/٦; it has"),
        ("", "has no ; it has"),
        (6, "has no 6; it has"),
    ],
)
def test_only_what_has_one_row_a_record_is_a_key(path: Path, key: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        Embeddings(path, key=key)


@pytest.mark.parametrize(
    "key", ["lengths", "residues/offsets", "residues/7", "contacts/values", "embeddings", "", "x/1"]
)
def test_values_are_asked_for_by_the_keys_of_outputs(embeddings: Embeddings, key: str) -> None:
    with pytest.raises(InputError, match=f"has no {key}; it has bos/6, mean/6, residues/6"):
        embeddings.value(key, 0)


def test_ragged_outputs_that_are_not_there(embeddings: Embeddings, tmp_path: Path) -> None:
    np.testing.assert_array_equal(embeddings.residues("é|last"), embeddings.value("residues/6", 10))
    for ask in (embeddings.logits, embeddings.contacts, lambda row: embeddings.residues(row, 5)):
        with pytest.raises(InputError, match="it has bos/6, mean/6, residues/6"):
            ask(0)
    with Embeddings(write_merged(tmp_path / "x.h5", IDS, mean_6=ROWS)) as few:
        for layer in (None, 6):
            with pytest.raises(InputError, match=r"has no residues.*; it has mean/6"):
                few.residues(0, layer)
    for which in (slice(2), [1, 2], "nobody"):
        with pytest.raises((TypeError, LookUpError)):
            embeddings.residues(which)


def test_a_file_without_rows_says_what_it_has(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / "x.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "a") as file:
        del file["embeddings"], file["mean"], file["bos"]
    with Embeddings(copy) as embeddings:
        assert embeddings.key is None
        with pytest.raises(InputError, match="no output with one row a record, but residues/6"):
            embeddings[0]
        assert embeddings.residues(0).shape == (2, D)
    with pytest.raises(InputError, match="residues/6 has no one row a record; no key has"):
        Embeddings(copy, key="residues/6")
