"""How many files may be open: raised where that is allowed, else said."""

import resource

import pytest
from spotesm.base.failures import UserError
from spotesm.base.limits import OTHERS, allow_open_files


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (100, 5000, 900 + OTHERS),
        (900 + OTHERS, 5000, None),
        (900 + OTHERS - 1, 900 + OTHERS, 900 + OTHERS),
        (100, resource.RLIM_INFINITY, 900 + OTHERS),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_the_limit_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int | None
) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    allow_open_files(900)
    assert raised == ([] if expected is None else [(expected, hard)])


def test_too_low_a_limit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 900 + OTHERS - 1))
    with pytest.raises(UserError, match=r"ulimit -n.*fewer"):
        allow_open_files(900)
