"""What a run asks of each dataset, known by content, before anything is computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from spotesm.base.durable import read_json, write_json
from spotesm.base.paths import weights_manifest
from spotesm.request.config import Dataset, compression_filter, own_files
from spotesm.request.inputs import know_by_content
from spotesm.request.request import Request


@dataclass(frozen=True)
class Asked:
    """What a run asks of one dataset.

    Attributes:
        request: layers and precision may be unresolved.
        weights: what the config calls them, and
        weights_sha256: what they are; empty if nobody has looked at them yet.
        reading: how the input is read: its alphabet, and what translates nucleotides.
        files: the input files, and
        contents: `SIZE DIGEST` of each.
        compression: of the merged file, as h5py calls it.
        max_rejected: fraction of the records that may be rejected.
    """

    request: Request
    weights: str
    weights_sha256: str
    reading: dict
    files: list[str]
    contents: list[str]
    compression: str | None
    max_rejected: float

    @property
    def input(self) -> dict:
        """What the records come from, as shards and merged files say it."""
        return {"reading": self.reading, "files": self.files, "contents": self.contents}

    def write(self, path: Path) -> None:
        """Write it down, for `is_finished`."""
        write_json(path, {**asdict(self), "request": self.request.as_param()})

    @classmethod
    def read(cls, path: Path) -> "Asked | None":
        """Read what `write` wrote; None if that is not there, or foreign."""
        try:
            content = read_json(path)
            asked = cls(**{**content, "request": Request.of_param(content["request"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return asked if asked._is_sound() else None

    def _is_sound(self) -> bool:
        """Whether all is of the types above."""
        lists = (self.files, self.contents)
        return (
            all(isinstance(text, str) for text in (self.weights, self.weights_sha256))
            and isinstance(self.reading, dict)
            and all(isinstance(texts, list) for texts in lists)
            and all(isinstance(text, str) for texts in lists for text in texts)
            and len(self.files) == len(self.contents)
            and isinstance(self.compression, str | None)
            and isinstance(self.max_rejected, int | float)
        )


def ask(config: Mapping, fasta: Mapping[str, list[str]]) -> dict[str, Asked]:
    """Return what a checked config asks, by dataset; looks at all files that it names.

    Args:
        fasta: the input files of each dataset, as `find_fasta` found them.

    Raises:
        ConfigError, InputError: one is not there, or cannot be read.
    """
    model = config["model"]
    manifest = weights_manifest(model["name"], model["weights"], model["adapter"])
    contents = know_by_content(own_files(config)["weights"])
    asked = {}
    for name, files in fasta.items():
        dataset = Dataset.of_config(config, name)
        asked[name] = Asked(
            request=Request.of_config(config),
            weights=" + ".join(filter(None, (model["weights"], model["adapter"]))),
            weights_sha256=_known_sha256(manifest, contents),
            reading=dataset.reading,
            files=files,
            contents=know_by_content(files),
            compression=compression_filter(config),
            max_rejected=config["max_rejected"],
        )
    return asked


def is_manifest_of(manifest: Path, contents: list[str]) -> bool:
    """Whether a manifest is of the files that the config names, by their `SIZE DIGEST`."""
    return bool(_known_sha256(manifest, contents))


def _known_sha256(manifest: Path, contents: list[str]) -> str:
    try:
        known = read_json(manifest)
        return known["sha256"] if known["contents"] == contents else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""
