"""A file as a DataFrame and as AnnData, compared with what was written."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from embeddings_files import EmbeddingsFile, write_embeddings
from spotesm import Embeddings
from spotesm.base.failures import InputError, UserError

IDS = ["b", "sp|P1|X", "a", "é", "c", "x/y", "d"]


@pytest.fixture
def made(tmp_path: Path) -> EmbeddingsFile:
    return write_embeddings(tmp_path, IDS)


def test_a_data_frame(made: EmbeddingsFile) -> None:
    for key in ("mean/6", "bos/2"):
        with Embeddings(made.path, key=key) as embeddings:
            frame = embeddings.to_pandas()
        assert frame.index.tolist() == IDS
        assert frame.to_numpy().dtype == np.float32
        np.testing.assert_array_equal(frame.to_numpy(), made.values[key])
        np.testing.assert_array_equal(frame.loc["d"], made.values[key][6])


def test_anndata(made: EmbeddingsFile) -> None:
    with Embeddings(made.path, key="bos/2") as embeddings:
        data = embeddings.to_anndata()
    assert data.obs_names.tolist() == IDS
    np.testing.assert_array_equal(data.X, made.values["bos/2"])
    assert list(data.obsm) == ["mean_6"]
    np.testing.assert_array_equal(data.obsm["mean_6"], made.values["mean/6"])
    assert data.obs["length"].tolist() == [len(sequence) for _, sequence in made.records]
    assert data.obs["windows"].tolist() == [1, 1, 2, 1, 1, 2, 1]
    assert (data.uns["model"], data.uns["key"]) == ("esm2_t6_8M_UR50D", "bos/2")


def test_where_proteins_of_contigs_lie(made: EmbeddingsFile) -> None:
    with h5py.File(made.path, "a") as file:
        file["orfs/contigs"] = np.array([f"contig{i}" for i in range(7)], h5py.string_dtype())
        for first, name in enumerate(("frames", "starts", "ends")):
            file[f"orfs/{name}"] = np.arange(first, first + 7)
    with Embeddings(made.path) as embeddings:
        obs = embeddings.to_anndata().obs
    assert obs["contig"].tolist() == [f"contig{i}" for i in range(7)]
    for first, name in enumerate(("frame", "start", "end")):
        assert obs[name].tolist() == list(range(first, first + 7))


def test_without_rows_there_is_nothing_to_give(made: EmbeddingsFile) -> None:
    with h5py.File(made.path, "a") as file:
        del file["embeddings"], file["mean"], file["bos"]
    with Embeddings(made.path) as embeddings:
        for give in (embeddings.to_pandas, embeddings.to_anndata):
            with pytest.raises(InputError, match="has no output with one row a record"):
                give()


@pytest.mark.parametrize(
    ("package", "method"), [("pandas", "to_pandas"), ("anndata", "to_anndata")]
)
def test_who_has_not_the_package_is_told(
    made: EmbeddingsFile, monkeypatch: pytest.MonkeyPatch, package: str, method: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with Embeddings(made.path) as embeddings, pytest.raises(UserError, match="pip install"):
        getattr(embeddings, method)()
