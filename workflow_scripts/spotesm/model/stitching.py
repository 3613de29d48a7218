"""From windows back to sequences, and from sequences to the results of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spotesm.request.outputs import BOS, CONTACTS, LOGITS, MEAN, RESIDUES, Outputs, group_of
from spotesm.request.results import Ragged, Results

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Embedded:
    """One sequence: its values by key, in how many windows it was computed, or why it was not."""

    values: Values = field(default_factory=dict)
    windows: int = 0
    reason: str = ""


def split_by_window(passes: Sequence[Values], residues: Sequence[int]) -> list[Values]:
    """Take the values of several passes apart: by window, of `residues` each."""
    sizes = {
        MEAN: [1] * len(residues),
        BOS: [1] * len(residues),
        RESIDUES: residues,
        LOGITS: residues,
        CONTACTS: [n * n for n in residues],
    }
    windows: list[Values] = [{} for _ in residues]
    for key in passes[0] if passes else ():
        joined = np.concatenate([values[key] for values in passes])
        edges = np.cumsum(sizes[group_of(key)])[:-1]
        for window, values in zip(windows, np.split(joined, edges), strict=True):
            window[key] = values
    return windows


def stitch(starts: Sequence[int], windows: Sequence[Values]) -> Values:
    """Join the windows of one sequence, which begin at the residues `starts`.

    Means are sums of shares already. A residue that several windows cover gets the average of
    what they say, and so does BOS; contact maps stay one a window.
    """
    if len(windows) == 1:
        return windows[0]
    joined = {}
    for key in windows[0]:
        own = [values[key] for values in windows]
        match group_of(key):
            case "mean":
                joined[key] = np.sum(own, axis=0)
            case "bos":
                joined[key] = np.mean(own, axis=0)
            case "contacts":
                joined[key] = np.concatenate(own)
            case _:
                joined[key] = _average_residues(starts, own)
    return joined


def _average_residues(starts: Sequence[int], windows: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros((starts[-1] + len(windows[-1]), windows[0].shape[1]), np.float32)
    coverage = np.zeros((len(total), 1), np.float32)
    for start, values in zip(starts, windows, strict=True):
        total[start : start + len(values)] += values
        coverage[start : start + len(values)] += 1
    total /= coverage
    return total


def join(digests: Sequence[bytes], embedded: Sequence[Embedded], outputs: Outputs) -> Results:
    """Put the sequences of a batch together, in what they are stored in."""
    done = [index for index, one in enumerate(embedded) if not one.reason]
    rows, ragged = {}, {}
    for key in (*outputs.row_keys, *outputs.ragged_keys) if done else ():
        values = np.concatenate([embedded[index].values[key] for index in done])
        values = values.astype(outputs.dtype, copy=False)
        sizes = np.zeros(len(embedded), np.int64)
        sizes[done] = [len(embedded[index].values[key]) for index in done]
        if key in outputs.row_keys:
            rows[key] = np.zeros((len(embedded), values.shape[1]), values.dtype)
            rows[key][done] = values
        else:
            ragged[key] = Ragged(values, sizes)
    return Results(
        np.array(digests, dtype="S16"),
        [one.reason for one in embedded],
        np.array([one.windows for one in embedded], np.int32),
        rows,
        ragged,
    )
