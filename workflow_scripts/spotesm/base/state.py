"""Small JSON files that one process leaves for the next, which may find them damaged."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spotesm.base.durable import make_directory, read_json

log = logging.getLogger(__name__)

SET_ASIDE = "set-aside"


def read_state(path: Path, fits: Callable[[dict], bool], without: str) -> dict | None:
    """Return what such a file holds; None if there is none.

    One that is damaged, or is something else, goes to the folder `set-aside` beside it, with a
    line in the log: it is as if there were none.

    Args:
        fits: whether an object has what such a file must have.
        without: what happens without the file, for the log.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if content is not None and fits(content):
        return content
    make_directory(path.parent / SET_ASIDE)
    with suppress(FileNotFoundError):  # another job has just done so
        os.replace(path, path.parent / SET_ASIDE / path.name)
    log.warning("%s is damaged; set aside: %s", path, without)
    return None
