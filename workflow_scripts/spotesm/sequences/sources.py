"""What the files are called that records come from."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from spotesm.sequences.compression import SUFFIXES


def stem_of(path: str) -> str:
    """Return the name of a file without its ending, and without that of its compression."""
    file = Path(path).name
    for suffix in SUFFIXES:
        file = file.removesuffix(suffix)
    return file.rpartition(".")[0] or file


def name_files(paths: Sequence[str]) -> list[str]:
    """Return what to call each of some files: its stem, or a folder where stems repeat.

    That is the nearest one in the paths that tells all of them apart, as in `GCF_*/protein.faa`;
    if there is none, their names stay the same.
    """
    names = list(map(stem_of, paths))
    alike: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        alike[name].append(place)
    for places in alike.values():
        if len(places) > 1:
            folders = [Path(paths[place]).parts[-2::-1] for place in places]
            levels = zip(*folders, strict=False)  # up to where one of the paths begins
            apart = next((level for level in levels if len(set(level)) == len(level)), None)
            for place, name in zip(places, apart or (), strict=False):
                names[place] = name
    return names
