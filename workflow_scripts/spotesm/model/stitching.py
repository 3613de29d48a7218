"""From windows back to sequences, and from sequences to the results of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spotesm.request.outputs import Outputs, output_of
from spotesm.request.results import Ragged, Results
from spotesm.sequences.reasons import Reason

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Embedded:
    """One sequence: its values by key, in how many windows it was computed, or why it was not."""

    values: Values = field(default_factory=dict)
    windows: int = 0
    reason: Reason | None = None


def split_by_window(passes: Sequence[Values], residues: Sequence[int]) -> list[Values]:
    """Take the values of several passes apart: by window, of `residues` each."""
    windows: list[Values] = [{} for _ in residues]
    for key in passes[0] if passes else ():
        joined = np.concatenate([values[key] for values in passes])
        edges = np.cumsum([output_of(key).rows(n) for n in residues])[:-1]
        for window, values in zip(windows, np.split(joined, edges), strict=True):
            window[key] = values
    return windows


def stitch(starts: Sequence[int], windows: Sequence[Values]) -> Values:
    """Join the windows of one sequence, which begin at the residues `starts`.

    Each output has its own way; see `spotesm.request.outputs`.
    """
    if len(windows) == 1:
        return windows[0]
    return {
        key: output_of(key).join(starts, [values[key] for values in windows]) for key in windows[0]
    }


def join(digests: np.ndarray, embedded: Sequence[Embedded], outputs: Outputs) -> Results:
    """Put the sequences of a batch together, in what they are stored in.

    Args:
        digests: (k,) DIGEST, of each.
    """
    done = [index for index, one in enumerate(embedded) if not one.reason]
    rows, ragged = {}, {}
    for key in outputs.keys if done else ():
        values = np.concatenate([embedded[index].values[key] for index in done])
        values = values.astype(outputs.dtype, copy=False)
        sizes = np.zeros(len(embedded), np.int64)
        sizes[done] = [len(embedded[index].values[key]) for index in done]
        if not output_of(key).ragged:
            rows[key] = np.zeros((len(embedded), values.shape[1]), values.dtype)
            rows[key][done] = values
        else:
            ragged[key] = Ragged.of_sizes(values, sizes)
    return Results(
        digests,
        [one.reason for one in embedded],
        np.array([one.windows for one in embedded], np.int32),
        rows,
        ragged,
    )
