"""What a merged file says of sequences that were rejected for their device's sake: `/rejected`.

Another device may well embed them, so they are known by digest, reason and device.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import h5py
import numpy as np

from spotesm.hdf5.format import DAMAGE
from spotesm.request.results import Results
from spotesm.sequences.digests import from_bytes
from spotesm.sequences.reasons import Device, Reason

REJECTED, REJECTED_ON = "rejected", "rejected_on"


def write_devices(attributes: h5py.AttributeManager, reasons: Iterable[Reason]) -> list[Device]:
    """Write and return the devices that records of a file were rejected on, each once."""
    devices = list(dict.fromkeys(reason.device for reason in reasons if reason.device))
    attributes[REJECTED_ON] = json.dumps([asdict(device) for device in devices])
    return devices


def read_devices(attributes: Mapping) -> list[Device]:
    """Return the devices that records of a shard's or a merged file were rejected on.

    Raises:
        TypeError, ValueError: the attribute is damaged.
    """
    return [Device(**device) for device in json.loads(attributes[REJECTED_ON])]


def choose_devices(attributes: Mapping, numbers: np.ndarray) -> list[Device | None]:
    """Return the devices with some numbers (k,): None for 0, else the k-th of the attribute.

    Raises:
        TypeError, ValueError: the attribute is damaged, or has not so many.
    """
    devices = [None, *read_devices(attributes)]
    if numbers.max(initial=0) >= len(devices):
        raise ValueError(f"names {len(devices) - 1} devices, not {numbers.max()}")
    return [devices[number] for number in numbers]


def write_unfit(file: h5py.File, unfit: Mapping[bytes, Reason]) -> None:
    """Write the sequences, by the bytes of their digests, that were rejected so.

    Datasets, for m of them: `rejected/digests` (m, 16) uint8, `rejected/reasons` and
    `rejected/details` (m,) text, `rejected/devices` (m,) uint16: k for the k-th device of the
    attribute `rejected_on`. There are none where m is 0.
    """
    devices = write_devices(file.attrs, unfit.values())
    if not unfit:
        return
    group, text = file.create_group(REJECTED), h5py.string_dtype("utf-8")
    group["digests"] = np.frombuffer(b"".join(unfit), np.uint8).reshape(len(unfit), -1)
    for name, texts in (
        ("reasons", [reason.keyword for reason in unfit.values()]),
        ("details", [reason.detail for reason in unfit.values()]),
    ):
        group.create_dataset(name, data=texts, dtype=text)
    numbers = [1 + devices.index(reason.device) for reason in unfit.values()]
    group["devices"] = np.array(numbers, np.uint16)


def read_unfit(file: h5py.File) -> Results | None:
    """Return what a merged file says of them; None if there are none.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    if REJECTED not in file:
        return None
    group = file[REJECTED]
    devices = choose_devices(file.attrs, group["devices"][:])
    columns = (group["reasons"].asstr()[:], group["details"].asstr()[:], devices)
    reasons = [Reason(*column) for column in zip(*columns, strict=True)]
    digests = from_bytes(group["digests"][:])
    if len(digests) != len(reasons):
        raise ValueError("has not a reason for each rejected sequence")
    return Results(digests, list(reasons), np.zeros(len(reasons), np.int32))


def is_consistent(file: h5py.File) -> bool:
    """Whether a merged file names just the devices that its rejected sequences belong to."""
    try:
        unfit, devices = read_unfit(file), read_devices(file.attrs)
    except DAMAGE:
        return False
    if unfit is None:
        return not devices
    known = len(np.unique(unfit.digests)) == len(unfit.digests)
    return known and {reason.device for reason in unfit.reasons} == set(devices)


def may_be_tried(attributes: Mapping, device: Device) -> bool:
    """Whether a file, of a shard or merged, lacks records that a device may well embed.

    Raises:
        TypeError, ValueError: the attribute is damaged.
    """
    return any(other != device for other in read_devices(attributes))
