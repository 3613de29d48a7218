"""A map of the embeddings in two dimensions, and who is next to whom."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spotesm.merged.reader import Embeddings
from spotesm.report.colours import Palette, Scale
from spotesm.report.labels import Labels
from spotesm.sequences.accessions import accession_of

MOST_POINTS = 5000
NEIGHBOURS = 8
LONGEST_TEXT = 120


@dataclass(frozen=True)
class Landscape:
    """A sample of k records.

    Attributes:
        rows: (k,) which rows of the file.
        ids: of each.
        lengths: (k,) residues.
        accessions: of each, empty where the id has none.
        labels: of each, empty where it has none; or None where no labels were given.
        maps: by method, (k, 2).
        variance: shares that the two principal components of the map have of all.
        neighbours: (k, m) places of the nearest in the sample, by cosine, nearest first.
        cosines: (k, m) theirs.
        is_sample: whether there are more records than these.
    """

    rows: np.ndarray
    ids: list[str]
    accessions: list[str]
    lengths: np.ndarray
    labels: list[str] | None
    maps: dict[str, np.ndarray]
    variance: tuple[float, float]
    neighbours: np.ndarray
    cosines: np.ndarray
    is_sample: bool

    def for_browser(self, colours: Scale | Palette) -> dict:
        """Return what the page needs to draw the maps, and to find a protein and its neighbours."""
        return {
            "ids": self.ids,
            "accessions": self.accessions if any(self.accessions) else [],
            "lengths": self.lengths.tolist(),
            "labels": self.labels,
            "maps": {name: _between_ones(points).tolist() for name, points in self.maps.items()},
            "colours": colours.places,
            "scaled": isinstance(colours, Scale),
            "neighbours": self.neighbours.tolist(),
            "cosines": np.round(self.cosines.astype(np.float64), 3).tolist(),
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
    points, variance = project(values)
    maps = {"PCA": points}
    if importlib.util.find_spec("umap"):
        import umap

        maps["UMAP"] = umap.UMAP(random_state=0).fit_transform(values)
    return Landscape(
        rows=rows,
        ids=[_shorten(identifier) for identifier in ids],
        accessions=[accession_of(identifier) or "" for identifier in ids],
        lengths=embeddings.file["lengths"][:][rows],
        labels=[_shorten(labels.of.get(identifier, "")) for identifier in ids] if labels else None,
        maps=maps,
        variance=variance,
        neighbours=neighbours,
        cosines=cosines,
        is_sample=len(rows) < len(embeddings),
    )


def choose_rows(n_records: int, labelled: Sequence[int]) -> np.ndarray:
    """Return up to `MOST_POINTS` rows, ascending; up to half of them labelled."""
    labelled = np.asarray(labelled, np.int64)
    chosen = labelled[_evenly(len(labelled), MOST_POINTS // 2)]
    others = np.setdiff1d(np.arange(n_records), chosen, assume_unique=True)
    return np.union1d(chosen, others[_evenly(len(others), MOST_POINTS - len(chosen))])


def _evenly(n: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _between_ones(points: np.ndarray) -> np.ndarray:
    """Centre points, and scale both axes alike, so that the wider one is from -1 to 1."""
    low, high = points.min(0), points.max(0)
    half = max((high - low).max() / 2, 1e-12)
    return np.round((points - (low + high) / 2).astype(np.float64) / half, 4)


def project(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the first two principal components of (k, D), (k, 2), and their shares of variance."""
    centred = values - values.mean(0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    shares = scales**2 / max((scales**2).sum(), 1e-30)
    return centred @ directions[:2].T, (shares[0].item(), shares[1].item())


def find_neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of each row's nearest others, and their cosines, (k, m) each."""
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(values) - 1)]
    return nearest, np.take_along_axis(cosines, nearest, axis=1)
