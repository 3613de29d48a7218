"""The packages that jobs run with: `esm` is a name that others have, too."""

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from spotesm.base.failures import UserError

PACKAGE = "esm"
ITS_OWN = Path("model/esm2.py")  # of fair-esm's, and of no other of that name


def refuse_other_esm() -> None:
    """Check that Python finds fair-esm by the name `esm`, or nothing; nothing is imported.

    Raises:
        UserError: it finds another package, such as that of ESM C, or somebody's `esm.py`.
    """
    spec = find_spec(PACKAGE)
    if spec is None:
        return
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if any((place / ITS_OWN).exists() for place in places):
        return
    found = places[0] if places else Path(str(spec.origin))
    named = " and ".join(_distributions_of(found))
    remedy = (
        f"put it in its place: python -m pip uninstall {named.partition(' ')[0]}; "
        "python -m pip install --force-reinstall --no-deps fair-esm"
        if named
        else f"take {found.parent} out of PYTHONPATH, or rename it"
    )
    raise UserError(
        f"the package {PACKAGE} that Python finds first is another one, {found}"
        f"{f' ({named})' if named else ''}; spotESM needs fair-esm: {remedy}"
    )


def _distributions_of(place: Path) -> Iterator[str]:
    """Yield what was installed there, with versions."""
    for distribution in metadata.distributions(path=[str(place.parent)]):
        if any(file.parts[0] == place.name for file in distribution.files or ()):
            yield f"{distribution.name} {distribution.version}"
