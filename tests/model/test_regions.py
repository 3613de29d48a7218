"""What lies between products, compiled for this CPU, against what is not compiled."""

import logging
import shutil

import pytest
import torch
from spotesm.model import regions
from spotesm.model.regions import Regions, choose_regions, compile_regions

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
DIM, HEADS = 96, 4

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


@needs_compiler
def test_compiled_regions_equal_plain_ones_for_any_number_of_tokens() -> None:
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    compiled = compile_regions()
    regions._compare(Regions(), compiled, CPU, torch.bfloat16, DIM, HEADS)
    graphs = stats["unique_graphs"]
    assert graphs >= 3
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(DIM, generator=generator))
    # Other layers' weights and other numbers of tokens compile nothing anew, DIM tokens neither.
    with torch.inference_mode():
        for tokens in (3, DIM, 801, 64):
            x = torch.randn(tokens, DIM, generator=generator)
            y = torch.randn(tokens, DIM, generator=generator).bfloat16()
            for own, other in zip(
                compiled.add_norm(x, y, weight, weight, 1e-5),
                regions.add_norm(x, y, weight, weight, 1e-5),
                strict=True,
            ):
                torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-2)
    assert stats["unique_graphs"] == graphs


@pytest.mark.parametrize("wrong", ["norm", "add_norm", "rotate"])
def test_what_differs_is_not_trusted(wrong: str) -> None:
    right = getattr(regions, wrong)

    def off(*arguments: object) -> object:
        values = right(*arguments)
        return (values[0], values[1] * 1.01) if isinstance(values, tuple) else values * 1.01

    odd = Regions(**{wrong: off})
    with pytest.raises(ValueError, match="compiled, values differ by up to"):
        regions._compare(Regions(), odd, CPU, torch.float16, DIM, HEADS)


@torch.inference_mode()
def test_turning_by_parts_is_turning() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 2, HEADS, 24, generator=generator)
    rotation = torch.randn(50, 12, 2, generator=generator)
    by_parts = regions.rotate_by_parts(x, rotation)
    torch.testing.assert_close(by_parts, regions.rotate(x.clone(), rotation), rtol=0, atol=1e-6)


class Compiles:
    """A GPU on which everything is there; the comparison runs on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, compiled: Regions) -> None:
        monkeypatch.delenv("SPOTESM_COMPILE", raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
        monkeypatch.setattr(regions.importlib.util, "find_spec", lambda _: True)
        monkeypatch.setattr(regions.shutil, "which", lambda _: "/usr/bin/cc")
        monkeypatch.setattr(regions, "compile_regions", lambda: compiled)
        compare = regions._compare
        monkeypatch.setattr(
            regions, "_compare", lambda one, other, _, *rest: compare(one, other, CPU, *rest)
        )


def fail(*_: object) -> None:
    raise RuntimeError("InvalidCxxCompiler: none of them\nand more")


def choose(caplog: pytest.LogCaptureFixture) -> tuple[Regions, str]:
    with caplog.at_level(logging.INFO):
        chosen = choose_regions(CUDA, torch.float32, DIM, HEADS)
    (line,) = caplog.messages
    return chosen, line


def test_a_gpu_runs_them_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = Regions(rotate=regions.rotate_by_parts)
    Compiles(monkeypatch, compiled)
    assert choose(caplog) == (compiled, "what lies between products is compiled")


@pytest.mark.parametrize(
    ("missing", "value", "said"),
    [
        ("environment", None, "SPOTESM_COMPILE is 0"),
        ("capability", lambda _: (6, 1), "the GPU is older than Triton wants"),
        ("triton", lambda _: None, "Triton is not installed"),
        ("compiler", lambda _: None, "there is no C compiler"),
        ("right values", None, "ValueError: compiled, values differ by up to"),
        ("a compiler that works", None, "RuntimeError: InvalidCxxCompiler: none of them"),
    ],
)
def test_plain_regions_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    missing: str,
    value: object,
    said: str,
) -> None:
    odd = Regions(norm=lambda x, weight, bias, eps, dtype: x)
    Compiles(monkeypatch, odd if missing == "right values" else Regions())
    match missing:
        case "environment":
            monkeypatch.setenv("SPOTESM_COMPILE", "0")
        case "capability":
            monkeypatch.setattr(torch.cuda, "get_device_capability", value)
        case "triton":
            monkeypatch.setattr(regions.importlib.util, "find_spec", value)
        case "compiler":
            monkeypatch.setattr(regions.shutil, "which", value)
        case "a compiler that works":
            monkeypatch.setattr(regions, "compile_regions", fail)
    chosen, line = choose(caplog)
    assert chosen == Regions()
    assert line.startswith(f"what lies between products is not compiled: {said}")


def test_a_cpu_runs_them_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_regions(CPU, torch.bfloat16, DIM, HEADS) == Regions()
    assert not caplog.messages
