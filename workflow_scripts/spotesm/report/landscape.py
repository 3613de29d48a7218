"""A map of the embeddings in two dimensions, and who is next to whom."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spotesm.hdf5.reader import Embeddings
from spotesm.report.labels import Labels

MOST_POINTS = 5000
NEIGHBOURS = 8
LONGEST_ID = 120


@dataclass(frozen=True)
class Landscape:
    """A sample of k records.

    Attributes:
        rows: (k,) which rows of the file.
        ids: of each.
        lengths: (k,) residues.
        labels: of each, empty if unknown; or None where no labels were given.
        maps: by method, (k, 2).
        neighbours: (k, m) places of the nearest in the sample, by cosine, nearest first.
        cosines: (k, m) theirs.
        is_sample: whether there are more records than these.
    """

    rows: np.ndarray
    ids: list[str]
    lengths: np.ndarray
    labels: list[str] | None
    maps: dict[str, np.ndarray]
    neighbours: np.ndarray
    cosines: np.ndarray
    is_sample: bool

    def for_browser(self) -> dict:
        """Return what the page needs to find a protein and its neighbours."""
        return {
            "ids": self.ids,
            "lengths": self.lengths.tolist(),
            "neighbours": self.neighbours.tolist(),
            "cosines": np.round(self.cosines, 4).tolist(),
        }


def survey(embeddings: Embeddings, labels: Labels | None) -> Landscape | None:
    """Draw a map of up to `MOST_POINTS` records; None if there is nothing to draw.

    They are chosen evenly; where labels are given, up to half of them among those with a label.
    The map is a principal component analysis; a UMAP, too, where umap-learn is installed.
    """
    if embeddings.key is None or len(embeddings) < 3:
        return None
    rows = choose_rows(len(embeddings), labels.rows if labels else ())
    values = embeddings[rows].astype(np.float32)
    ids = [embeddings.file["sequence_ids"].asstr()[row] for row in rows]
    neighbours, cosines = find_neighbours(values)
    maps = {"PCA": project(values)}
    if importlib.util.find_spec("umap"):
        import umap

        maps["UMAP"] = umap.UMAP(random_state=0).fit_transform(values)
    return Landscape(
        rows=rows,
        ids=[i if len(i) <= LONGEST_ID else f"{i[:LONGEST_ID]}…" for i in ids],
        lengths=embeddings.file["lengths"][:][rows],
        labels=[labels.of.get(identifier, "") for identifier in ids] if labels else None,
        maps=maps,
        neighbours=neighbours,
        cosines=cosines,
        is_sample=len(rows) < len(embeddings),
    )


def choose_rows(n_records: int, labelled: Sequence[int]) -> np.ndarray:
    """Return up to `MOST_POINTS` rows, ascending; up to half of them labelled."""
    chosen = np.asarray(labelled, np.int64)[_evenly(len(labelled), MOST_POINTS // 2)]
    return np.union1d(chosen, _evenly(n_records, MOST_POINTS - len(chosen)))


def _evenly(n: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def project(values: np.ndarray) -> np.ndarray:
    """Return the first two principal components of (k, D), (k, 2)."""
    centred = values - values.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


def find_neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of each row's nearest others, and their cosines, (k, m) each."""
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(values) - 1)]
    return nearest, np.take_along_axis(cosines, nearest, axis=1)
