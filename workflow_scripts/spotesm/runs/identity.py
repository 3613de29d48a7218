"""Whether a finished result is what is asked for now, told from the file itself.

A scheduler's memory may be lost, and the dates of copies mean nothing, so neither is looked at. A
result that lacks something is computed again, reusing what it holds; one that would lose something
is not touched unless the user says so.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from spotesm.base.durable import read_json, replacing
from spotesm.base.failures import (
    ConfigError,
    InputError,
    NoLocksError,
    WeightsError,
    explain_host_fault,
)
from spotesm.base.locks import try_lock
from spotesm.base.paths import DatasetPaths, is_path_of_weights
from spotesm.hdf5.format import DAMAGE, open_checked, open_hdf5, refuse_foreign
from spotesm.hdf5.unfit import may_be_tried, read_devices
from spotesm.machine.nvidia import describe_local
from spotesm.merged.merge import read_summary
from spotesm.request.inputs import is_grown
from spotesm.request.outputs import Outputs
from spotesm.request.request import Request
from spotesm.request.reuse import outputs_of
from spotesm.runs.asked import Asked
from spotesm.runs.occupancy import DatasetBusyError
from spotesm.sequences.containment import holds_all
from spotesm.sequences.digests import from_bytes
from spotesm.sequences.long_sequences import SMALLER_WINDOWS, LongSequences

ABSENT, DONE, TO_DO, REFUSED = "absent", "done", "to do", "refused"
ROWS_AT_ONCE = 1 << 18
MARKS = Path(".snakemake/spotesm")
WAYS_ON = (
    "Give the new one another name (--name; in a config, another name below datasets:), or let it "
    "be replaced (--replace; replace: true)"
)


@dataclass(frozen=True)
class Standing:
    """How a dataset's merged file stands to what is asked.

    Attributes:
        state: `ABSENT`; `DONE`, it is what is asked; `TO_DO`, what is asked holds all that it
            holds, and something more; `REFUSED`, something that it holds would be lost.
        why: what differs, in words.
        looked_at: what tells the file from one that takes its place later.
    """

    state: str
    why: tuple[str, ...] = ()
    looked_at: tuple[int, ...] = ()


def find_standing(paths: DatasetPaths, asked: Asked) -> Standing:
    """Compare a dataset's merged file with what is asked.

    Raises:
        InputError: what lies in its place is none of spotESM's files, of another format, or cannot
            be read; or the input cannot.
    """
    if not paths.embeddings.exists():
        return Standing(ABSENT)
    refuse_foreign(paths.embeddings)
    try:
        file = open_checked(paths.embeddings)
    except InputError as error:
        return Standing(TO_DO, (f"it is damaged ({error})",))
    try:
        with file:
            lost, lacking = _compare(file, asked)
    except DAMAGE as error:
        if fault := explain_host_fault(error):  # which tells nothing of the file
            raise InputError(
                f"{paths.embeddings}: cannot be compared with the input: {fault}"
            ) from error
        return Standing(TO_DO, (f"it is damaged ({error})",))
    if lost:
        return Standing(REFUSED, tuple(lost))
    if read_summary(paths.summary) is None:
        lacking.append(f"{paths.summary} is missing, or damaged")
    if not paths.rejected.exists():
        lacking.append(f"{paths.rejected} is missing")
    return Standing(TO_DO, tuple(lacking)) if lacking else Standing(DONE)


def is_finished(paths: DatasetPaths) -> bool:
    """Whether a dataset's merged file is what was last asked for, as `Asked.write` noted it."""
    asked = Asked.read(paths.asked)
    if asked is None or not paths.embeddings.exists():
        return False
    try:
        with open_checked(paths.embeddings) as file:  # asked again and again while a run works
            if json.loads(file.attrs["input"])["contents"] != asked.contents:
                return False
        return find_standing(paths, asked).state == DONE
    except (InputError, *DAMAGE):
        return False


def judge_results(asked: Mapping[str, Asked], may_replace: bool) -> dict[str, Standing]:
    """Return how the result of each dataset stands, after mending what a kill left.

    Args:
        may_replace: whether results may lose something.

    Raises:
        ConfigError: one would, and may not.
        InputError: what lies in the place of one is none of spotESM's files.
    """
    standings = {}
    for name, wanted in asked.items():
        paths = DatasetPaths.of(name)
        if paths.earlier.exists():
            _restore_if_left(paths)
        file = _tell(paths)
        standings[name] = replace(find_standing(paths, wanted), looked_at=file)
    if not may_replace:
        refuse_losses(standings)
    return standings


def restore_earlier(paths: DatasetPaths) -> None:
    """Give a merged file its name back if a run ended while it replaced it."""
    if not paths.earlier.exists():
        return
    if paths.embeddings.exists():
        paths.earlier.unlink()
    else:
        os.replace(paths.earlier, paths.embeddings)


def _restore_if_left(paths: DatasetPaths) -> None:
    """Do so if that run has ended: one that lives needs the second name until it has merged."""
    with suppress(NoLocksError), try_lock(paths.lock, "--directory") as is_free:
        if is_free:
            restore_earlier(paths)
        return
    restore_earlier(paths)


def check_unchanged(standings: Mapping[str, Standing]) -> None:
    """Check that merged files are those that were looked at, once no other run can change them.

    Raises:
        DatasetBusyError: another run has written one since.
    """
    for name, standing in standings.items():
        if _tell(paths := DatasetPaths.of(name)) != standing.looked_at:
            raise DatasetBusyError(
                f"{paths.embeddings}: another run has written it meanwhile; run the same command "
                "again"
            )


def _tell(paths: DatasetPaths) -> tuple[int, ...]:
    try:
        stat = paths.embeddings.stat()
    except FileNotFoundError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_same_weights(manifest: Path, held: Iterable[Path]) -> None:
    """Check that merged files, which are to hold more, have the weights of a manifest.

    Damaged ones hold nothing that could be lost.

    Raises:
        WeightsError: one has others.
    """
    sha256 = read_json(manifest)["sha256"]
    for path in held:
        with suppress(InputError), open_checked(path) as file:
            if file.attrs["weights_sha256"] != sha256:
                raise WeightsError(
                    f"{path} has a finished result of other weights ({file.attrs['weights']}), "
                    f"which this run would replace. {WAYS_ON}"
                )


def report_key(embeddings: Path, labels: list[str]) -> str:
    """Return what tells a report from those on other results, or with other labels.

    Args:
        labels: `SIZE DIGEST` of the labels' file, if there is one.
    """
    try:
        with open_checked(embeddings) as file:
            result = [str(file.attrs["created"]), str(file.attrs["fingerprint"]), *labels]
    except InputError:
        return ""
    return hashlib.blake2b(json.dumps(result).encode(), digest_size=16).hexdigest()


def refuse_losses(standings: Mapping[str, Standing]) -> None:
    """Check that no finished result would lose anything, by dataset.

    Raises:
        ConfigError: one would; says what, and the ways on.
    """
    refused = {name: s for name, s in standings.items() if s.state == REFUSED}
    if not refused:
        return
    name, standing = next(iter(refused.items()))
    others = f" (so do {', '.join(list(refused)[1:])})" if len(refused) > 1 else ""
    raise ConfigError(
        f"{DatasetPaths.of(name).embeddings} has a finished result, which this run would replace: "
        f"{'; '.join(standing.why)}. {WAYS_ON}{others}"
    )


def is_split_of(counts: Path, asked: Asked) -> bool:
    """Whether what a step counted is of the input that is asked for."""
    try:
        return read_json(counts)["input"] == asked.input
    except (OSError, ValueError, TypeError, KeyError):
        return False


def is_shard_of(path: Path, asked: Asked) -> bool:
    """Whether a shard's file was computed for what is asked, and of this input."""
    try:
        with open_hdf5(path) as file:
            theirs = json.loads(file.attrs["fingerprint"])
            return (
                json.loads(file.attrs["input"]) == asked.input
                and not [*_compare_model(theirs, str(file.attrs["weights"]), asked)]
                and theirs["long_sequences"] == asdict(asked.request.long_sequences)
                and outputs_of(theirs).keys == _outputs_of(asked.request).keys
            )
    except DAMAGE:
        return False


def write_mark(run: str, folder: Path = MARKS) -> Path:
    """Write a file that is newer than any output, and new in each run; where it is.

    Snakemake lists a folder once: what is written there later is missing for it.
    """
    mark = folder / "stale"
    with replacing(mark) as temporary:
        temporary.write_text(run, encoding="utf-8")
    return mark


def make_older(stale: Path, mark: Path) -> None:
    """See to it that a stale output is older than the mark."""
    if stale.stat().st_mtime >= mark.stat().st_mtime:  # its clock was wrong
        os.utime(stale, (0, 0))


# -- the comparison --------------------------------------------------------------------------------


def _compare(file: h5py.File, asked: Asked) -> tuple[list[str], list[str]]:
    """Return what of a file would be lost, and what it lacks."""
    theirs = json.loads(file.attrs["fingerprint"])
    lost = [
        *_compare_model(theirs, str(file.attrs["weights"]), asked),
        *_find_lost_rows(file, theirs["long_sequences"], asked.request.long_sequences),
    ]
    lacking = []
    if not asked.weights_sha256 and is_path_of_weights(asked.weights):
        lacking.append(f"{asked.weights} has not been looked at yet")
    if theirs["long_sequences"] != asdict(asked.request.long_sequences):
        lacking.append("long_sequences: is another")
    n_records, n_rejected = int(file.attrs["n_records"]), int(file.attrs["n_rejected"])
    if n_rejected > asked.max_rejected * n_records:
        lacking.append(f"{n_rejected} of its {n_records} records were rejected")
    on_device = read_devices(file.attrs)
    if on_device and may_be_tried(file.attrs, describe_local(theirs["precision"])):
        lacking.append(f"records were rejected on another device ({on_device[0]})")
    if lost:  # another model has other keys, and reading the input takes long
        return lost, lacking
    held, wanted = outputs_of(theirs).keys, _outputs_of(asked.request).keys
    lacking += [f"{key} is added" for key in wanted if key not in held]
    if wanted[0] != held[0]:  # what /embeddings leads to
        lacking.append(f"{wanted[0]} is asked for first")
    if {file[key].compression for key in held} != {asked.compression}:
        lacking.append(f"compression: {asked.compression or 'none'} is asked for")
    problem, is_lost = _compare_input(file, asked)
    (lost if is_lost else lacking).extend(problem)
    if lacking and not set(held) <= set(wanted):
        lost.append(
            f"it holds {', '.join(held)}, in this order; asked for is {', '.join(wanted)}, not all "
            "of that: ask for both to have them in one file"
        )
    return lost, lacking


def _outputs_of(request: Request) -> Outputs:
    return request.resolve(request.precision).select()


def _compare_model(theirs: Mapping, source: str, asked: Asked) -> Iterator[str]:
    """Yield what of the model and its arithmetic is another."""
    request = asked.request
    for what, held, wanted in (
        ("model", theirs["model"], request.model),
        ("engine", theirs["engine"], request.engine),
        ("store_dtype", theirs["store_dtype"], request.store_dtype),
    ):
        if held != wanted:
            yield f"its {what} is {held}; asked for is {wanted}"
    if request.precision not in ("auto", theirs["precision"]):
        yield f"its precision is {theirs['precision']}; asked for is {request.precision}"
    if asked.weights_sha256:
        same = theirs["weights_sha256"] == asked.weights_sha256
    elif is_path_of_weights(asked.weights):
        same = True  # until somebody has looked, nobody knows
    else:
        same = source == asked.weights or source.startswith(f"{asked.weights}@")
    if not same:
        yield f"its weights are {source}; asked for is {asked.weights}" + (
            ", whose files are others" if source == asked.weights else ""
        )


def _find_lost_rows(file: h5py.File, theirs: Mapping, ours: LongSequences) -> Iterator[str]:
    """Yield why rows would be others under another policy for long sequences."""
    before = LongSequences(**theirs)
    if before == ours:
        return
    smaller = before.out_of_memory == SMALLER_WINDOWS != ours.out_of_memory
    for start in range(0, len(file["lengths"]), ROWS_AT_ONCE):
        lengths = file["lengths"][start : start + ROWS_AT_ONCE]
        windows = file["windows"][start : start + ROWS_AT_ONCE]
        if not ours.cuts_like(before, lengths).all() or (
            smaller and (windows > before.count_windows(lengths)).any()
        ):
            yield f"its long sequences went through as {_text(before)}; asked for is {_text(ours)}"
            return


def _text(long: LongSequences) -> str:
    return ", ".join(f"{name}: {value}" for name, value in asdict(long).items())


def _compare_input(file: h5py.File, asked: Asked) -> tuple[list[str], bool]:
    """Return what of the input differs, and whether the result has records that it has not."""
    if "input" not in file.attrs:
        return ["it does not say which files it is of"], True
    held = json.loads(file.attrs["input"])
    names = ", ".join(held["files"][:3]) + (" and more" if len(held["files"]) > 3 else "")
    if held["reading"] != asked.reading:
        return [
            f"it is of {names}, read as {_reading(held['reading'])}, not {_reading(asked.reading)}"
        ], True
    if held["contents"] == asked.contents:
        return [], False
    if is_grown(held["contents"], asked.files, asked.contents) or (
        not asked.reading.get("genetic_code") and holds_all(asked.files, _read_records(file))
    ):
        return ["the input has more records"], False
    ours = ", ".join(asked.files[:3])
    if asked.reading.get("genetic_code"):
        return [f"the contigs of {ours} are not those of {names} with more behind them"], True
    return [f"it has records of {names} that {ours} lacks"], True


def _reading(reading: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in reading.items())


def _read_records(file: h5py.File) -> Iterable[tuple[list[bytes], np.ndarray]]:
    """Yield ids and digests (k,) DIGEST of all rows, block by block."""
    for start in range(0, len(file["lengths"]), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield file["sequence_ids"][rows].tolist(), from_bytes(file["digests"][rows])
