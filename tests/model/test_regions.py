"""What lies between products, compiled for this CPU, against what is not compiled."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from spotesm.model import regions
from spotesm.model.layers import ESM2Layer
from spotesm.model.regions import Regions, choose_regions, compile_regions
from spotesm.weights.architectures import Architecture

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SHAPE = Architecture(2, 96, 4, "esmc")
DIM, HEADS = SHAPE.embedding_dim, SHAPE.attention_heads
ALL = tuple(field.name for field in fields(Regions))

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


@needs_compiler
def test_compiled_regions_equal_plain_ones_for_any_number_of_tokens() -> None:
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    compiled = compile_regions()
    regions._compare(Regions(), compiled, CPU, torch.bfloat16, SHAPE, ALL)
    graphs = stats["unique_graphs"]
    assert graphs >= 5
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(DIM, generator=generator))
    # Other layers' weights and other numbers of tokens compile nothing anew, DIM tokens neither.
    with torch.inference_mode():
        for tokens in (3, DIM, 801, 64):
            x = torch.randn(tokens, DIM, generator=generator)
            y = torch.randn(tokens, DIM, generator=generator).bfloat16()
            for own, other in zip(
                compiled.add_norm(x, y, 0.9, weight, weight, 1e-5),
                regions.add_norm(x, y, 0.9, weight, weight, 1e-5),
                strict=True,
            ):
                torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-2)
    assert stats["unique_graphs"] == graphs


@pytest.mark.parametrize("wrong", ALL)
def test_what_differs_is_not_trusted(wrong: str) -> None:
    right = getattr(regions, wrong)

    def off(*arguments: object) -> object:
        values = right(*arguments)
        return (values[0], values[1] * 1.01) if isinstance(values, tuple) else values * 1.01

    odd = Regions(**{wrong: off})
    with pytest.raises(ValueError, match="compiled, values differ by up to"):
        regions._compare(Regions(), odd, CPU, torch.float16, SHAPE, ALL)


@torch.inference_mode()
def test_turning_by_parts_is_turning() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 2, HEADS, 24, generator=generator)
    rotation = torch.randn(50, 12, 2, generator=generator)
    by_parts = regions.rotate_by_parts(x, rotation)
    torch.testing.assert_close(by_parts, regions.rotate(x.clone(), rotation), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_norm_and_a_turn_by_parts_are_a_norm_and_a_turn() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = torch.randn(50, DIM, generator=generator), torch.randn(DIM, generator=generator)
    rotation = torch.randn(50, DIM // HEADS // 2, 2, generator=generator)
    normed = torch.nn.functional.layer_norm(x, (DIM,), weight, None, 1e-5)
    turned = regions.rotate(normed.view(50, 1, HEADS, -1).clone(), rotation)[:, 0]
    for way in (regions.norm_rotate, regions.norm_rotate_by_parts):
        torch.testing.assert_close(way(x, weight, 1e-5, rotation), turned, rtol=0, atol=2e-6)


@pytest.mark.parametrize("way", [regions.swiglu, regions.swiglu_anew])
@torch.inference_mode()
def test_gates_come_first(way: Callable) -> None:
    x = torch.randn(50, 2 * DIM, generator=torch.Generator().manual_seed(4))
    gates, values = x.double()[:, :DIM], x.double()[:, DIM:]
    expected = gates / (1 + (-gates).exp()) * values
    torch.testing.assert_close(way(x.clone()).double(), expected, rtol=1e-6, atol=1e-6)


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
        chosen = choose_regions(CUDA, torch.float32, SHAPE, ESM2Layer.regions)
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
        assert choose_regions(CPU, torch.bfloat16, SHAPE, ESM2Layer.regions) == Regions()
    assert not caplog.messages
