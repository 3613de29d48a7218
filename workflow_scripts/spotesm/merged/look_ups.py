"""What is said of an id that no record has, or several."""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

from spotesm.base.failures import InputError

if TYPE_CHECKING:
    from spotesm.merged.reader import Embeddings

ROWS_NAMED = 5
CLOSE_AMONG = 1 << 16  # ids that are compared with an unknown one, a second or two


class LookUpError(InputError, KeyError):
    """No record has an id, or several have it."""

    def __init__(self, embeddings: "Embeddings", identifier: str, rows: Sequence[int]) -> None:
        super().__init__(embeddings, identifier, rows)

    def __str__(self) -> str:
        embeddings, identifier, rows = self.args
        if rows:
            first = ", ".join(map(str, rows[:ROWS_NAMED])) + (", ..." * (len(rows) > ROWS_NAMED))
            have = f"records have the id or accession {identifier!r}"
            return f"{embeddings.path}: {len(rows)} {have}, rows {first}; see rows_of"
        # Here, not where it is raised: who tries many ids need not pay for it.
        some = dict.fromkeys(islice(embeddings.iterate_ids(), CLOSE_AMONG))
        close = get_close_matches(identifier, some, 3)
        return f"{embeddings.path}: no record has the id {identifier!r}{did_you_mean(close)}"


def did_you_mean(close: Sequence[str]) -> str:
    """Return the end of a line that names what is close to something unknown."""
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
