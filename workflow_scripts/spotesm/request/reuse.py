"""What earlier results may serve again: the files that the config names, settings that allow it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spotesm.base.failures import OUT_OF_MEMORY, ConfigError
from spotesm.base.paths import DatasetPaths
from spotesm.request.outputs import CONTACTS, Outputs, output_of
from spotesm.request.request import Request
from spotesm.request.results import Results
from spotesm.sequences.long_sequences import SMALLER_WINDOWS, LongSequences
from spotesm.sequences.reasons import Device

OF_CONTENT = ("outputs", "layers", "store_dtype")
# Settings that may differ: what an earlier file has besides is left, what it lacks is computed.
COVERED = (*OF_CONTENT, "regression_sha256", "long_sequences")


def find_reused(config: Mapping) -> dict[str, list[str]]:
    """Return, by dataset, the earlier files that the config names for it, in its order.

    A name among the datasets is that dataset's own file. Datasets that are named themselves take
    from those named before them, so that none waits for itself.

    Raises:
        ConfigError: something that is named is no file, no dataset, or named twice.
    """
    names: list[str] = config["reuse"]
    datasets = config["datasets"]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"config: reuse: {repeated} is named twice; keep one")
    files = {name: _file_of(name, name in datasets) for name in names}
    return {
        dataset: [files[n] for n in (names[: names.index(dataset)] if dataset in names else names)]
        for dataset in datasets
    }


def find_result(name: str, folder: Path = Path()) -> str | None:
    """Return the result of a dataset of an earlier run in a folder; None if there is none."""
    own = folder / DatasetPaths.of(name).embeddings
    return str(own) if "/" not in name and own.is_file() else None


def _file_of(name: str, is_dataset: bool) -> str:
    if is_dataset:
        return str(DatasetPaths.of(name).embeddings)
    if Path(name).is_file():
        return name
    if own := find_result(name):
        return own
    what = "is a folder" if Path(name).is_dir() else "no such file, and no dataset of that name"
    raise ConfigError(f"config: reuse: {name}: {what}; name an embeddings.h5, or a dataset")


def find_difference(theirs: Mapping, ours: Mapping) -> str | None:
    """Return why nothing under some settings serves under others; None if something may."""
    names = (theirs.keys() | ours.keys()) - set(COVERED)
    if changed := sorted(name for name in names if theirs.get(name) != ours.get(name)):
        return f"was computed with other settings ({', '.join(changed)})"
    if not _says_what_it_holds(theirs) or not _says_what_it_holds(ours):
        return "does not say what it holds"
    if theirs["store_dtype"] != ours["store_dtype"] and ours["store_dtype"] != "float16":
        return f"holds {theirs['store_dtype']}, but {ours['store_dtype']} is wanted"
    if not units_held(theirs, ours):
        return "holds nothing of what is wanted"
    return None


def _says_what_it_holds(settings: Mapping) -> bool:
    try:
        long_of(settings)
        return bool(outputs_of(settings).units)
    except (KeyError, TypeError, ValueError):
        return False


def units_held(theirs: Mapping, ours: Mapping) -> list[str]:
    """Return what of the units wanted (see `Outputs.units`) is held under other settings."""
    wanted, held = outputs_of(ours), outputs_of(theirs)
    units = [u for u in wanted.units if set(wanted.keys_of([u])) <= set(held.keys)]
    if theirs.get("regression_sha256") != ours.get("regression_sha256"):
        units = [unit for unit in units if unit != CONTACTS]
    # What did not fit into memory was cut anew, and all its outputs must be of the same windows.
    if ours["long_sequences"]["out_of_memory"] == SMALLER_WINDOWS and units != wanted.units:
        return []
    return units


def outputs_of(settings: Mapping) -> Outputs:
    """Return the outputs under some settings, as a fingerprint has them."""
    names, layers = tuple(settings["outputs"]), tuple(settings["layers"])
    return Outputs(names, layers, settings["store_dtype"])


def long_of(settings: Mapping) -> LongSequences:
    """Return what happens to long sequences under some settings, as a fingerprint has them."""
    long = LongSequences(**settings["long_sequences"])
    if not isinstance(long.window, int):
        raise TypeError(f"a window of {long.window!r}")
    return long


def find_standing(
    results: Results, lengths: np.ndarray, theirs: Mapping, ours: Mapping, device: Device
) -> np.ndarray:
    """Return which of k sequences were rejected for what holds here, too, (k,) bool.

    That is: on such a device, for the same outputs, cut in the same way.

    Args:
        lengths: (k,) residues of each.
        theirs: the settings under which that was.
    """
    if any(theirs.get(name) != ours.get(name) for name in OF_CONTENT):
        return np.zeros(len(lengths), bool)
    before, now = long_of(theirs), long_of(ours)
    cut_smaller = now.out_of_memory == SMALLER_WINDOWS != before.out_of_memory
    holds = [
        reason is not None
        and reason.device == device
        and not (cut_smaller and reason.keyword == OUT_OF_MEMORY)
        for reason in results.reasons
    ]
    return np.array(holds, bool) & now.cuts_like(before, lengths)


def find_sound(
    results: Results, lengths: np.ndarray, request: Request, theirs: LongSequences
) -> np.ndarray:
    """Return which of k sequences have what they should, in a form that serves, (k,) bool.

    That is: they were not rejected, went through the model in the windows of today, and have as
    many values as these give, all of them finite.

    Args:
        lengths: (k,) residues of each.
        theirs: what happened to long sequences then.
    """
    usual = request.long_sequences.count_windows(lengths)
    smaller = request.long_sequences.out_of_memory == SMALLER_WINDOWS
    sound = np.array([reason is None for reason in results.reasons], bool)
    sound &= request.long_sequences.cuts_like(theirs, lengths)
    sound &= (results.windows >= usual) if smaller else (results.windows == usual)
    for rows in results.rows.values():
        sound &= np.isfinite(rows).all(1)
    for key, ragged in results.ragged.items():
        output = output_of(key)
        expected = np.broadcast_to(request.count_rows(output, lengths), lengths.shape)
        if output.name == CONTACTS:  # of smaller windows, nobody knows the size
            expected = np.where(results.windows == usual, expected, ragged.sizes)
        sound &= (ragged.sizes == expected) & (ragged.sizes > 0)
        finite = np.isfinite(ragged.values.reshape(len(ragged.values), -1)).all(1)
        of_value = np.repeat(np.arange(len(lengths)), ragged.sizes)
        sound[of_value[~finite]] = False
    return sound
