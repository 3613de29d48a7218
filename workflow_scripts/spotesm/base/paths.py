"""Where things lie: the results of a dataset, its checkpoints, the manifests of weights.

What Snakemake must see as a pattern stays in the rules; everybody else asks here.
"""

from dataclasses import dataclass
from pathlib import Path

from spotesm.base.durable import read_json, write_json

REPOSITORY = Path(__file__).parents[3]
SCHEMA = REPOSITORY / "rules" / "config.schema.yaml"

RESULTS = Path("results")
WEIGHTS = Path("resources/weights")

# Instead of a path, as where weights come from.
UNTRAINED, PRETRAINED = "untrained", "pretrained"


@dataclass(frozen=True)
class DatasetPaths:
    """What lies in `results/NAME`.

    Attributes:
        folder: `results/NAME` itself; paths in the config are relative to where `results` lies.
    """

    folder: Path

    @classmethod
    def of(cls, name: str, results: Path = RESULTS) -> "DatasetPaths":
        """Return the paths of a dataset."""
        return cls(results / name)

    @classmethod
    def of_all(cls, results: Path = RESULTS) -> "list[DatasetPaths]":
        """Return those of every dataset that has been split, by name."""
        return [cls(folder) for folder in sorted(results.glob("*")) if (folder / "shards").is_dir()]

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.folder.name

    @property
    def summary(self) -> Path:
        """The counts of the merge."""
        return self.folder / "summary.json"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"

    @property
    def shards(self) -> list[Path]:
        """The FASTA of each shard, in order; `shard_file` is what becomes of it."""
        return sorted(self.folder.glob("shards/*-of-*.fasta"), key=shard_order)

    @property
    def checkpoints(self) -> Path:
        """The folder with the checkpoints of the shards, as the last run wrote it down."""
        try:
            noted = Path(read_json(self._note)["checkpoints"])
        except FileNotFoundError:
            return self.folder / "checkpoints"
        return self.folder.parents[1] / noted

    def checkpoints_in(self, directory: str | None) -> Path:
        """Return where checkpoints go, given `checkpoint: dir`."""
        return Path(directory, self.name) if directory else self.folder / "checkpoints"

    def note_checkpoints(self, directory: str | None) -> None:
        """Write down where they go, so that nobody needs to be told."""
        wanted = {"checkpoints": str(self.checkpoints_in(directory))}
        if not self._note.exists() or read_json(self._note) != wanted:
            write_json(self._note, wanted)

    @property
    def _note(self) -> Path:
        return self.folder / "checkpoints.json"


def shard_order(path: Path) -> int:
    """Return a shard's number, from 1; its files and folders are named `3-of-16`."""
    return int(path.name.partition("-of-")[0])


def shard_file(fasta: Path) -> Path:
    """Return the HDF5 file of a shard."""
    return fasta.with_suffix(".h5")


def is_own_weights(source: str) -> bool:
    """Whether the config names weights of the user's own, not `untrained` or `pretrained`."""
    return source not in (UNTRAINED, PRETRAINED)


def weights_manifest(model: str, source: str) -> Path:
    """Return the manifest of weights; each source has its own, so that none replaces another."""
    return WEIGHTS / ("custom" if is_own_weights(source) else source) / f"{model}.json"
