"""Whether a merged file agrees with itself: its attributes, its datasets, each of its values."""

import json
from collections.abc import Callable, Iterator

import numpy as np

from spotesm.base.failures import IncompleteError
from spotesm.base.paths import UNTRAINED
from spotesm.hdf5.checksums import checksums_at, checksums_of
from spotesm.hdf5.pieces import blocks_of
from spotesm.hdf5.unfit import is_consistent
from spotesm.merged.index import check_index
from spotesm.merged.reader import FIRST, Embeddings
from spotesm.request.outputs import CONTACTS, Output, offsets_of, output_of
from spotesm.request.request import Request
from spotesm.sequences.long_sequences import SMALLER_WINDOWS
from spotesm.weights.architectures import ARCHITECTURES

ROWS_AT_ONCE = 4096


def check_integrity(
    embeddings: Embeddings, advance: Callable[[int], object] = lambda _: None
) -> None:
    """Check that a file has all that was asked for of each record, as it was computed.

    Args:
        advance: is told how many more rows of values have been looked at.

    Raises:
        IncompleteError: it does not.
    """
    check_shapes(embeddings, check_attributes(embeddings))
    check_values(embeddings, advance)
    check_index(embeddings.file)


def check_attributes(embeddings: Embeddings) -> Request:
    """Check that the attributes agree with each other and with the rows; what was asked for."""
    request, attributes = embeddings.request, embeddings.attributes
    try:
        settings = dict(json.loads(attributes["fingerprint"]))
        stated = {**request.as_param(), "weights_sha256": attributes["weights_sha256"]}
        width = int(attributes["embedding_dim"])
        counted = int(attributes["n_records"]) - int(attributes["n_rejected"])
    except (KeyError, TypeError, ValueError) as error:
        raise IncompleteError(
            f"{embeddings.path}: its attributes are damaged ({error}); merge it again"
        ) from error
    for name, value in stated.items():
        if settings.get(name) != value:
            raise IncompleteError(
                f"{embeddings.path}: its attribute {name} is {value!r}, but it was computed with "
                f"{settings.get(name)!r}"
            )
    if attributes.get("biologically_meaningful") != (attributes.get("weights") != UNTRAINED):
        raise IncompleteError(
            f"{embeddings.path}: its attribute biologically_meaningful does not fit its weights, "
            f"{attributes.get('weights')}"
        )
    if request.model not in ARCHITECTURES:
        raise IncompleteError(f"{embeddings.path}: of {request.model}, which is no model we know")
    if width != request.architecture.embedding_dim:
        raise IncompleteError(
            f"{embeddings.path}: its attribute embedding_dim is {width}, but {request.model} has "
            f"{request.architecture.embedding_dim}"
        )
    if not is_consistent(embeddings.file):
        raise IncompleteError(
            f"{embeddings.path}: does not name the devices that rejected records; merge it again"
        )
    if counted != len(embeddings):
        raise IncompleteError(
            f"{embeddings.path}: has {len(embeddings)} rows, but its attributes say {counted}"
        )
    return request


def check_shapes(embeddings: Embeddings, request: Request) -> None:
    """Check that each output that was asked for is there, of each record.

    Raises:
        IncompleteError: one is not, or has another shape or type.
    """
    path, n, file = embeddings.path, len(embeddings), embeddings.file
    outputs = request.select()
    there = embeddings.outputs
    missing = [key for key in outputs.keys if key not in there]
    # An output whose rows depend on the sequence is not there if there is no record.
    if missing and (n or set(missing) & set(outputs.row_keys)):
        raise IncompleteError(f"{path}: has no {', '.join(missing)}, which it was computed with")
    if extra := [key for key in there if key not in outputs.keys]:
        raise IncompleteError(f"{path}: has {', '.join(extra)}, which it was computed without")
    if outputs.row_keys and embeddings.key != outputs.row_keys[0]:
        raise IncompleteError(f"{path}: {FIRST} is not {outputs.row_keys[0]}")
    for key in there:
        output = output_of(key)
        rows = len(file[key]) if output.ragged else n
        shape = output.shape(rows, request.architecture)
        if (file[key].shape, file[key].dtype) != (shape, outputs.dtype):
            raise IncompleteError(
                f"{path}: {key} is {file[key].shape} {file[key].dtype}, not {shape} {outputs.dtype}"
            )
    for start in range(0, n, ROWS_AT_ONCE):
        check_windows(embeddings, request, slice(start, start + ROWS_AT_ONCE))
    check_reused(embeddings)
    check_checksums(embeddings)
    for output in {output_of(key).name: output_of(key) for key in there}.values():
        if output.ragged:
            check_offsets(embeddings, request, output)


def check_reused(embeddings: Embeddings) -> None:
    """Check that the file says of every record, or of none, from which earlier file it comes."""
    file = embeddings.file
    numbers, names = file.get("reused"), file.attrs.get("reused_from")
    if numbers is None and names is None:
        return
    if numbers is not None and names is not None and numbers.shape == (len(embeddings),):
        starts = range(0, len(embeddings), ROWS_AT_ONCE)
        if all(numbers[s : s + ROWS_AT_ONCE].max(initial=0) <= len(names) for s in starts):
            return
    raise IncompleteError(f"{embeddings.path}: does not say of each record whence it is reused")


def check_checksums(embeddings: Embeddings) -> None:
    """Check that there are checksums of all outputs."""
    for key in embeddings.outputs:
        checksums = embeddings.file.get(checksums_at(key))
        if checksums is None or checksums.shape != (len(embeddings),):
            raise IncompleteError(
                f"{embeddings.path}: does not have a checksum of {key} for every record"
            )


def check_windows(embeddings: Embeddings, request: Request, rows: slice) -> None:
    """Check in how many windows some rows went through the model."""
    windows = embeddings.file["windows"][rows]
    usual = request.long_sequences.count_windows(embeddings.file["lengths"][rows])
    # What did not fit on the device may have been cut into more.
    cut = request.long_sequences.out_of_memory == SMALLER_WINDOWS
    wrong = np.flatnonzero((windows < usual) if cut else (windows != usual))
    if len(wrong):
        first = wrong[0]
        raise IncompleteError(
            f"{embeddings.path}, row {rows.start + first}: {windows[first]} windows, "
            f"not {usual[first]}"
        )


def check_offsets(embeddings: Embeddings, request: Request, output: Output) -> None:
    """Check where the values of each record begin: in order, without a gap, as many as it has."""
    path, file, n = embeddings.path, embeddings.file, len(embeddings)
    offsets = file[offsets_of(output)]
    if offsets.shape != (n + 1,) or offsets[0] != 0:
        raise IncompleteError(f"{path}: {offsets_of(output)} are not {n + 1} numbers from 0 on")
    for key in embeddings.outputs:
        if output_of(key) is output and len(file[key]) != offsets[n]:
            raise IncompleteError(f"{path}: {key} has {len(file[key])} rows, not {offsets[n]}")
    for start in range(0, n, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        sizes = np.diff(offsets[start : start + ROWS_AT_ONCE + 1])
        lengths, windows = file["lengths"][rows], file["windows"][rows]
        expected = request.count_rows(output, lengths)
        if output.name == CONTACTS:  # of smaller windows, nobody knows the size
            smaller = windows > request.long_sequences.count_windows(lengths)
            expected = np.where(smaller, sizes, expected)
        wrong = np.flatnonzero((sizes != expected) | (sizes < 1))
        if len(wrong):
            raise IncompleteError(
                f"{path}, row {start + wrong[0]}: has {sizes[wrong[0]]} values of {output.name}, "
                f"not {expected[wrong[0]]}"
            )


def check_values(embeddings: Embeddings, advance: Callable[[int], object]) -> None:
    """Check that every value of every output is finite, and the one that was computed."""
    file = embeddings.file
    for key in embeddings.outputs:
        checksums = file[checksums_at(key)]
        for start, offsets in _blocks(embeddings, output_of(key)):
            values = file[key][offsets[0] : offsets[-1]]
            if not np.isfinite(values).all():
                raise IncompleteError(f"{embeddings.path}: {key} has values that are not finite")
            own = checksums_of(values, offsets - offsets[0])
            wrong = np.flatnonzero(own != checksums[start : start + len(own)])
            if len(wrong):
                raise IncompleteError(
                    f"{embeddings.path}, row {start + wrong[0]}: has other values of {key} "
                    "than were computed: it is damaged; merge it again"
                )
            advance(len(values))


def _blocks(embeddings: Embeddings, output: Output) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first of some records, and where the values of each (k,) begin and end, (k + 1,).

    Together they have `ROWS_AT_ONCE` rows of values at most, or are one record.
    """
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, len(embeddings))
        if output.ragged:
            offsets = embeddings.file[offsets_of(output)][start : end + 1]
        else:
            offsets = np.arange(start, end + 1)
        for some in blocks_of(offsets, ROWS_AT_ONCE):
            yield start + some.start, offsets[some.start : some.stop + 1]
