"""Settings that come with weights: each is honoured, harmless, or ends the run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spotesm.base.failures import WeightsError


@dataclass(frozen=True)
class Must:
    """A setting that must have one of some values.

    Attributes:
        be: the values.
        default: what it is where it is not said.
    """

    be: tuple[object, ...]
    default: object = None


def check_settings(
    where: str,
    given: Mapping[str, object],
    musts: Mapping[str, Must],
    harmless: Callable[[str], bool],
) -> None:
    """Check every setting: as it must be, harmless, or as good as not said.

    Raises:
        WeightsError: one is not; names it.
    """
    for name, must in musts.items():
        value = given.get(name, must.default)
        if value not in must.be:
            wanted = " or ".join(map(repr, must.be))
            unsaid = "" if name in given else ", as it is where nothing is said"
            raise WeightsError(
                f"{where}: {name} is {value!r}{unsaid}; spotESM computes {wanted} only"
            )
    for name, value in given.items():
        if name not in musts and value and not harmless(name):
            raise WeightsError(
                f"{where}: {name} is {value!r}, which spotESM does not know; if it changes no "
                "embeddings, remove it there"
            )
