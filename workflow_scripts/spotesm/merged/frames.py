"""A dataset's file as pandas and AnnData hold it; both are imported when they are needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import h5py

from spotesm.base.failures import UserError
from spotesm.request.outputs import Key
from spotesm.sequences.digests import as_hex, from_bytes

if TYPE_CHECKING:
    import anndata
    import pandas

ORIGINS = {"contig": "contigs", "frame": "frames", "start": "starts", "end": "ends"}


def frame_of(file: h5py.File, key: str) -> "pandas.DataFrame":
    """Return an output with one row a record, (N, D), its rows named by id.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("a DataFrame needs pandas; install it: pip install pandas") from error
    return pandas.DataFrame(file[key][:], index=pandas.Index(_ids(file), name="id"))


def anndata_of(file: h5py.File, key: str, row_keys: Sequence[str]) -> "anndata.AnnData":
    """Return an output as X, (N, D), and the others of `row_keys` in obsm; see `annotations`."""
    data = annotations(file, key)
    data.X = file[key][:]
    for other in row_keys:
        if other != key:
            data.obsm[name_in_obsm(other)] = file[other][:]
    return data


def annotations(file: h5py.File, key: str) -> "anndata.AnnData":
    """Return AnnData of N records and D variables, without the values.

    What is known of each record is in `obs`: length, windows, digest (hex), and of nucleotide input
    contig, frame, start and end. The attributes of the file are in `uns`.

    Raises:
        UserError: anndata is not installed.
    """
    try:
        import anndata
        import pandas
    except ImportError as error:
        raise UserError("AnnData needs anndata; install it: pip install anndata") from error
    columns = {
        "length": file["lengths"][:],
        "windows": file["windows"][:],
        "digest": as_hex(from_bytes(file["digests"][:])),
    }
    for name, dataset in ORIGINS.items() if "orfs" in file else ():
        values = file["orfs"][dataset]
        columns[name] = (values.asstr() if name == "contig" else values)[:]
    variables = [f"d{i}" for i in range(file[key].shape[1])]
    return anndata.AnnData(
        obs=pandas.DataFrame(columns, index=pandas.Index(_ids(file), name="id")),
        var=pandas.DataFrame(index=variables),
        uns={**file.attrs, "key": key},
    )


def name_in_obsm(key: str) -> str:
    """Return what AnnData calls another output: `bos/33` would be a path."""
    parsed = Key.parse(key)
    return f"{parsed.output.name}_{parsed.layer}"


def _ids(file: h5py.File) -> list[str]:
    return file["sequence_ids"].asstr()[:].tolist()
