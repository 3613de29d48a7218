"""Where things lie: the results of a dataset, its checkpoints, the manifests of weights.

What Snakemake must see as a pattern stays in the rules; everybody else asks here.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spotesm.base.durable import read_json, write_json
from spotesm.base.state import read_state

REPOSITORY = Path(__file__).parents[3]
SCHEMA = REPOSITORY / "rules" / "config.schema.yaml"

RESULTS = Path("results")
WEIGHTS = Path("resources/weights")
CHECKPOINTS = "checkpoints"
_SHARD = re.compile(r"([0-9]+)-of-[0-9]+")

# Instead of a path, as where weights come from.
UNTRAINED, PRETRAINED = "untrained", "pretrained"
HUB = "hf:"  # what begins so is OWNER/NAME[@REVISION] of the hub of Hugging Face


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
    def embeddings(self) -> Path:
        """The merged file."""
        return self.folder / "embeddings.h5"

    @property
    def summary(self) -> Path:
        """The counts of the merge."""
        return self.folder / "summary.json"

    @property
    def rejected(self) -> Path:
        """The list of rejected records."""
        return self.folder / "rejected.tsv"

    @property
    def asked(self) -> Path:
        """What the last run asked for, as `Asked` has it."""
        return self.folder / "asked.json"

    @property
    def lock(self) -> Path:
        """Held by the run that works on the dataset; `run` says which that is."""
        return self.folder / "run.lock"

    @property
    def run(self) -> Path:
        """The run that works on the dataset, or worked last."""
        return self.folder / "run.json"

    @property
    def earlier(self) -> Path:
        """The second name of the merged file while a run replaces it."""
        return self.folder / "embeddings.earlier.h5"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"

    @property
    def shards(self) -> list[Path]:
        """The FASTA of each shard, in order; `shard_file` is what becomes of it.

        Those of the latest split: what others left is not theirs.
        """
        found = in_shard_order(self.folder.glob("shards/*.fasta"))
        numbers = {split_of(path): path for path in found}
        if len(numbers) < 2:
            return found
        noted = (self.read_split() or {}).get("shards")
        latest = max(numbers, key=lambda n: (n == noted, numbers[n].stat().st_mtime))
        return [path for path in found if split_of(path) == latest]

    def note_split(self, shards: int, chosen_for: int) -> None:
        """Write down into how many shards it is split, and for how many bytes of input."""
        write_json(self._split, {"shards": shards, "chosen_for": chosen_for})

    def read_split(self) -> dict | None:
        """Return what was written down of the split; None if that is not there, or damaged."""
        try:
            note = read_json(self._split)
        except (FileNotFoundError, ValueError):
            return None
        numbers = [note.get("shards"), note.get("chosen_for")]
        return note if all(type(n) is int and n >= 0 for n in numbers) and numbers[0] else None

    @property
    def _split(self) -> Path:
        return self.folder / "shards.json"

    @property
    def precision(self) -> Path:
        """What `precision: auto` is for it."""
        return self.folder / "precision.json"

    @property
    def checkpoints(self) -> Path:
        """The folder with the checkpoints of the shards, as the last run wrote it down."""
        try:
            note = read_json(self._note)
        except (FileNotFoundError, ValueError):
            note = {}
        if not _is_note(note):  # it is not there, or foreign
            return self.folder / CHECKPOINTS
        return Path(os.path.abspath(self.folder)).parent.parent / note[CHECKPOINTS]

    def checkpoints_in(self, directory: str | None) -> Path:
        """Return where checkpoints go, given `checkpoint: dir`."""
        return Path(directory, self.name) if directory else self.folder / CHECKPOINTS

    def note_checkpoints(self, where: Path) -> None:
        """Write down where they are, so that nobody needs to be told."""
        wanted = {CHECKPOINTS: str(where)}
        # Shards begin at once; if another was quicker, it wrote the same.
        with suppress(FileNotFoundError):
            if read_state(self._note, _is_note, "this job writes it anew") != wanted:
                write_json(self._note, wanted)

    @property
    def _note(self) -> Path:
        return self.folder / "checkpoints.json"


def _is_note(note: dict) -> bool:
    return isinstance(note.get(CHECKPOINTS), str)


def in_shard_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files or folders of shards, which are named `3-of-16`; others are left out."""
    named = [(_SHARD.fullmatch(path.stem), path) for path in paths]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def split_of(shard: Path) -> int:
    """Return into how many shards the input is split, of which this file or folder is one."""
    return int(shard.stem.partition("-of-")[2])


def shard_file(fasta: Path) -> Path:
    """Return the HDF5 file of a shard."""
    return fasta.with_suffix(".h5")


def is_path_of_weights(source: str) -> bool:
    """Whether the config names weights by the path of a file or folder."""
    return source not in (UNTRAINED, PRETRAINED) and not source.startswith(HUB)


def weights_manifest(model: str, source: str, adapter: str = "") -> Path:
    """Return the manifest of weights; each source has its own, so that none replaces another."""
    if source in (UNTRAINED, PRETRAINED) and not adapter:
        return WEIGHTS / source / f"{model}.json"
    digest = hashlib.blake2b(f"{source}\0{adapter}".encode(), digest_size=4).hexdigest()
    return WEIGHTS / "custom" / f"{model}.{digest}.json"
