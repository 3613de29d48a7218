"""The verdicts of `make acceptance`, and what of it runs without a network and a GPU."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from models import CPU
from spotesm.weights.architectures import ARCHITECTURES


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


acceptance, losses = load("run"), load("losses")


def fails() -> str:
    assert 1 > 2, "they differ"


def breaks() -> str:
    raise OSError("no such file")


def lacks() -> str:
    raise acceptance.NotPossibleError("no network")


@pytest.mark.parametrize("check", [fails, breaks])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_failure_anywhere_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: object, place: int
) -> None:
    checks = [lambda: "seen", lacks]
    checks.insert(place, check)
    named = {f"check {i}": one for i, one in enumerate(checks)}
    monkeypatch.setattr(acceptance, "all_checks", lambda _: named)
    ended = CliRunner().invoke(acceptance.main, ["--json", str(tmp_path / "verdicts.json")])
    assert ended.exit_code == 1
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    expected = {fails: "FAILED", breaks: "FAILED", lacks: "not possible here"}
    assert [v["result"] for v in verdicts] == [expected.get(c, "passed") for c in checks]
    assert "no network" in ended.output


def test_what_passes_or_is_not_possible_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "all_checks", lambda _: {"a": lambda: "seen", "b": lacks})
    assert CliRunner().invoke(acceptance.main, []).exit_code == 0


@pytest.mark.parametrize("model", ["esm2_t6_8M_UR50D", "esmc_300m"])
def test_losses_of_half_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, model: str
) -> None:
    if model == "esmc_300m":  # as large a one as needs no minute
        small = dataclasses.replace(ARCHITECTURES[model], layers=6, embedding_dim=128)
        small = dataclasses.replace(small, attention_heads=2)
        monkeypatch.setitem(ARCHITECTURES, model, small)
    monkeypatch.setattr(losses, "CUDA", CPU)
    monkeypatch.setattr(losses, "LENGTHS", (90, 33, 2, 1))
    losses.main(model, "bfloat16")
    found = json.loads(capsys.readouterr().out)
    keys = {"mean/6", "bos/6", "residues/6", "logits/values"}
    assert found.keys() == keys | ({"contacts/values"} if model.startswith("esm2") else set())
    assert all(1e-5 < loss < acceptance.LOSSES["bfloat16"] for loss in found.values())


def test_a_loss_is_relative() -> None:
    exact = torch.tensor([3.0, 4.0]).numpy()
    assert losses.loss(exact * 1.01, exact) == pytest.approx(0.01, rel=1e-4)
