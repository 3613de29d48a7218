"""`precision: auto` is one for all jobs of a dataset, whatever devices they find."""

import json
import multiprocessing
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from spotesm.base.failures import DeviceError, may_pass
from spotesm.base.paths import DatasetPaths
from spotesm.request.precision import Agreement, read_precision
from spotesm.sequences.reasons import Device

GPU = Device("NVIDIA H200", 140 << 30, "float16")
CPU = Device("CPU", 64 << 30, "float32")
HOST = socket.gethostname()


@pytest.fixture
def agreement(tmp_path: Path) -> Agreement:
    dataset = DatasetPaths(tmp_path / "results/d")
    return Agreement(dataset, dataset.checkpoints, run="first")


def join(agreement: Agreement, own: Device, past: str | None = None) -> str:
    return agreement.join(own, lambda: past)


def leave_a_part(agreement: Agreement) -> None:
    part = agreement.checkpoints / "2-of-3/part-00001.abc.pt"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()


@pytest.mark.parametrize("run", ["first", "later"])
def test_a_node_that_lost_its_gpu_ends_at_once(agreement: Agreement, run: str) -> None:
    assert join(agreement, GPU) == "float16"
    leave_a_part(agreement)
    with pytest.raises(DeviceError) as caught:
        join(replace(agreement, run=run), CPU)
    assert str(caught.value) == (
        f"precision: auto is float16 for d, as {HOST} (NVIDIA H200) has it, but {HOST} computes "
        f"on a CPU, in float32: mend {HOST}, whose GPU is not found, or set precision: float32, "
        "with which everything is computed anew"
    )
    assert may_pass(caught.value)
    assert read_precision(agreement.dataset) == "float16"


def test_jobs_of_a_run_agree_before_anything_is_computed(agreement: Agreement) -> None:
    assert join(agreement, GPU) == "float16"
    with pytest.raises(DeviceError):
        join(agreement, CPU)


def test_what_a_cpu_began_a_gpu_goes_on_with(
    agreement: Agreement, caplog: pytest.LogCaptureFixture
) -> None:
    assert [join(agreement, CPU), join(agreement, GPU)] == ["float32", "float32"]
    (line,) = caplog.messages
    assert line.startswith(f"precision: auto is float32 for d, as {HOST} (CPU) has it; on {HOST} ")


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("left", ["nothing", "a part", "a finished file", "a shard", "a result"])
def test_it_is_decided_anew_once_nothing_is_left(
    agreement: Agreement, left: str, restart: bool
) -> None:
    assert join(agreement, GPU) == "float16"
    path = {
        "a part": agreement.checkpoints / "2-of-3/part-00001.abc.pt",
        "a finished file": agreement.checkpoints / "2-of-3/finished.abc.h5",
        "a shard": agreement.dataset.folder / "shards/1-of-3.h5",
        "a result": agreement.dataset.embeddings,
    }.get(left)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    later = replace(agreement, run="later", restart=restart)
    if restart or left == "nothing":
        assert join(later, CPU) == "float32"
        assert read_precision(agreement.dataset) == "float32"
    else:
        with pytest.raises(DeviceError):
            join(later, CPU)


def test_results_of_an_earlier_auto_bind_it(agreement: Agreement) -> None:
    with pytest.raises(DeviceError, match=r"float16 for d, as .*results/d/embeddings\.h5 has it"):
        join(agreement, CPU, past="float16")
    assert join(agreement, GPU) == "float16"


def test_a_restart_forgets_earlier_results(agreement: Agreement) -> None:
    assert join(replace(agreement, restart=True), CPU, past="float16") == "float32"


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "[]",
        "7",
        "[" * 100_000,
        '{"precision": "float16"}',
        '{"precision": 5, "decided_by": "x", "run": "y"}',
        '{"precision": "int8", "decided_by": "x", "run": "y"}',
    ],
)
def test_a_damaged_note_is_set_aside(
    agreement: Agreement, rubbish: str, caplog: pytest.LogCaptureFixture
) -> None:
    note = agreement.dataset.precision
    note.parent.mkdir(parents=True)
    note.write_text(rubbish)
    assert join(agreement, GPU, past="float16") == "float16"
    assert json.loads(note.read_text())["precision"] == "float16"
    assert f"{note} is damaged; set aside: it is decided anew" in caplog.messages


def _join(agreement: Agreement, own: Device, told: "multiprocessing.SimpleQueue") -> None:
    try:
        told.put(join(agreement, own))
    except DeviceError:
        told.put("refused")


def test_jobs_that_begin_together_agree(agreement: Agreement) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    devices = [CPU, GPU] * 4
    jobs = [context.Process(target=_join, args=(agreement, own, told)) for own in devices]
    for job in jobs:
        job.start()
    answers = [told.get() for _ in jobs]
    for job in jobs:
        job.join()
    agreed = read_precision(agreement.dataset)
    wanted = {"float32": ["float32"] * 8, "float16": ["float16"] * 4 + ["refused"] * 4}
    assert sorted(answers) == wanted[agreed]
