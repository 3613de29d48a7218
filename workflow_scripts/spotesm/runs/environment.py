"""What Snakemake and its jobs find around them: Python's paths, a home, a user's name, profiles.

On odd machines each of these ends Snakemake with a stack trace, or runs what it should not.
"""

import os
import pwd
import re
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path

from spotesm.base.paths import REPOSITORY

STATE = Path(".snakemake/spotesm")  # in the folder of a run
OF_SNAKEMAKE = Path("snakemake/snakemake/source-cache")  # which it makes in the user's cache
USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where Python looks for one
SAFE_PATH = "PYTHONSAFEPATH"

DEFAULT_PROFILE = Path("profiles/default")
_PROFILE = re.compile(r"(profile|config)(\.v\d+\+)?\.yaml")


def complete_environment(environment: MutableMapping[str, str], folder: Path) -> list[str]:
    """Add to an environment what Snakemake and its jobs need; what there is to say of it.

    Args:
        folder: of the run; what has no other place goes below it.
    """
    isolate_python(environment)
    said = _name_user_and_home(environment, folder)
    return said + _find_cache(environment, folder)


def isolate_python(environment: MutableMapping[str, str]) -> None:
    """Let no Python look for modules in the folder that it runs in, such as a user's `random.py`.

    Jobs inherit it. An empty entry of PYTHONPATH, which `export PYTHONPATH=$PYTHONPATH:...` often
    leaves, means that folder, too.
    """
    environment[SAFE_PATH] = "1"
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path.split(os.pathsep)))


def _name_user_and_home(environment: MutableMapping[str, str], folder: Path) -> list[str]:
    """Give a user id that no list knows, as in many containers, a name and a home."""
    with suppress(KeyError):
        pwd.getpwuid(os.getuid())
        return []
    if not any(environment.get(name) for name in USER_NAMES):
        environment["USER"] = str(os.getuid())
    if environment.get("HOME"):
        return []
    environment["HOME"] = str((folder / STATE / "home").absolute())
    return [f"HOME is not set, and user {os.getuid()} has none: it is {environment['HOME']}"]


def _find_cache(environment: MutableMapping[str, str], folder: Path) -> list[str]:
    """Put caches below the run's folder, if the user's own cannot be written.

    Weights that are there are read there.
    """
    cache = Path(environment.get("XDG_CACHE_HOME") or _home_of(environment) / ".cache")
    reason = _why_not_written(cache / OF_SNAKEMAKE)
    if reason is None:
        return []
    own = (folder / STATE / "cache").absolute()
    environment["XDG_CACHE_HOME"] = str(own)
    for name, of_tool in (("TORCH_HOME", "torch"), ("HF_HOME", "huggingface")):
        if (cache / of_tool).is_dir():
            environment.setdefault(name, str(cache / of_tool))
    return [f"{cache} cannot be written ({reason}): caches, downloaded weights too, go to {own}"]


def _home_of(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def _why_not_written(folder: Path) -> str | None:
    """Return why a folder cannot be made and written; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


# -- profiles --------------------------------------------------------------------------------------


def describe_profiles(environment: Mapping[str, str], options: Sequence[str]) -> list[str]:
    """Name the profiles that Snakemake finds by itself, in place of spotESM's or beside it.

    Args:
        options: that it is started with.
    """
    said = []
    named = environment.get("SNAKEMAKE_PROFILE")
    if named and named != "none" and not _is_given("--profile", options):
        said.append(
            f"Snakemake takes settings from the profile {named}, too, which SNAKEMAKE_PROFILE "
            "names; without: -- --profile none"
        )
    found = next((path for path in _candidates() if _is_profile(path)), None)
    if found and not _is_given("--workflow-profile", options):
        said.append(
            f"Snakemake takes its settings from the profile {found} of this folder, in place of "
            f"spotESM's; without: -- --workflow-profile {REPOSITORY / DEFAULT_PROFILE}"
        )
    return said


def default_profile(options: Sequence[str]) -> list[str]:
    """Return the option that names spotESM's profile, where Snakemake would take something else.

    It takes whatever is called `default` in the current folder for a profile.
    """
    in_the_way = next((path for path in _candidates() if path.exists()), None)
    if in_the_way is None or _is_profile(in_the_way) or _is_given("--workflow-profile", options):
        return []
    return ["--workflow-profile", str(REPOSITORY / DEFAULT_PROFILE)]


def _candidates() -> list[Path]:
    """Return where Snakemake looks in the current folder, in order; spotESM's own comes next."""
    own = (REPOSITORY / DEFAULT_PROFILE).resolve()
    return [path for path in (Path("default"), DEFAULT_PROFILE) if path.resolve() != own]


def _is_profile(path: Path) -> bool:
    return path.is_dir() and any(_PROFILE.fullmatch(file.name) for file in path.iterdir())


def _is_given(option: str, options: Sequence[str]) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in options)
