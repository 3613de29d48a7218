"""What a merged file says of sequences that a device could not embed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from spotesm.hdf5.unfit import is_consistent, may_be_tried, read_devices, read_unfit, write_unfit
from spotesm.sequences.digests import digests_of
from spotesm.sequences.reasons import Device, Reason

T4, L4 = Device("T4", 16 << 30, "float16"), Device("L4 «é»", 0, "bfloat16")
DIGESTS = digests_of(b"%d" % i for i in range(5))
REASONS = [
    Reason("out_of_memory", "a").on(T4),
    Reason("not_finite", "").on(L4),
    Reason("cuda_runtime", "c").on(T4),
    Reason("out_of_memory", "d").on(L4),
    Reason("out_of_memory", "a").on(T4),
]


@pytest.fixture
def file(tmp_path: Path) -> h5py.File:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        unfit = {d.tobytes(): reason for d, reason in zip(DIGESTS, REASONS, strict=True)}
        write_unfit(file, unfit)
        yield file


def test_what_is_written_is_read_back(file: h5py.File) -> None:
    found = read_unfit(file)
    assert found.digests.tolist() == DIGESTS.tolist()
    assert found.reasons == REASONS
    assert found.windows.tolist() == [0] * 5
    assert read_devices(file.attrs) == [T4, L4]
    assert is_consistent(file)


def test_another_device_may_try(file: h5py.File, tmp_path: Path) -> None:
    assert all(may_be_tried(file.attrs, device) for device in (T4, L4, replace(T4, memory=1)))
    with h5py.File(tmp_path / "y.h5", "w") as of_one:
        write_unfit(of_one, {b"0" * 16: REASONS[0]})
        assert not may_be_tried(of_one.attrs, T4)
        for other in (L4, replace(T4, memory=1), replace(T4, precision="float32")):
            assert may_be_tried(of_one.attrs, other)


def test_a_file_without_them_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write_unfit(file, {})
        assert read_devices(file.attrs) == []
        assert file.attrs["rejected_on"] == "[]"
        assert not may_be_tried(file.attrs, T4)
        assert read_unfit(file) is None
        assert is_consistent(file)


def shorten(name: str) -> Callable[[h5py.File, int], None]:
    def change(file: h5py.File, _: int) -> None:
        values = file[f"rejected/{name}"][:-1]
        del file[f"rejected/{name}"]
        file[f"rejected/{name}"] = values

    return change


def set_device(number: int) -> Callable[[h5py.File, int], None]:
    def change(file: h5py.File, place: int) -> None:
        file["rejected/devices"][place] = number

    return change


def name_no_reason(file: h5py.File, place: int) -> None:
    file["rejected/reasons"][place] = "bad luck"


def repeat_a_digest(file: h5py.File, place: int) -> None:
    file["rejected/digests"][place] = file["rejected/digests"][place - 1]


def name_another_device(file: h5py.File, _: int) -> None:
    file.attrs["rejected_on"] = file.attrs["rejected_on"].replace("T4", "T5").replace("}]", "}, 7]")


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(
    "change",
    [
        *map(shorten, ("digests", "reasons", "details", "devices")),
        *map(set_device, (0, 3, np.iinfo(np.uint16).max)),
        name_no_reason,
        repeat_a_digest,
        name_another_device,
    ],
)
def test_damage_is_noticed(file: h5py.File, change: Callable, place: int) -> None:
    change(file, place)
    assert not is_consistent(file)
