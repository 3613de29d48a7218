"""Whether the configs of a run are still those that its command wrote.

Two commands on one dataset write to one file; Snakemake reads it seconds later.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

from spotesm.base.failures import ConfigError

CONFIGS = "SPOTESM_CONFIGS"


def note_configs(environment: MutableMapping[str, str], paths: Iterable[Path]) -> None:
    """Tell Snakemake, by its environment, what the configs of its line hold."""
    environment[CONFIGS] = json.dumps({str(path.absolute()): _digest(path) for path in paths})


def check_configs(environment: Mapping[str, str]) -> None:
    """Check that they still hold that; of lines that are typed by hand, nothing is known.

    Raises:
        ConfigError: one does not.
    """
    for path, digest in json.loads(environment.get(CONFIGS, "{}")).items():
        if _digest(Path(path)) != digest:
            raise ConfigError(
                f"{path}: another command has written it meanwhile; wait for its run, and run the "
                "same command again"
            )


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except FileNotFoundError:
        return ""
