"""The known answer: here that of a random model, which transformers itself computes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub import add_repository, esm_config
from models import write_fair_esm
from source_contract import TINY
from spotesm.base.failures import WeightsError
from spotesm.model import known_answer
from spotesm.model.known_answer import ANSWERS, MODEL, Answer, check_known_answer
from spotesm.weights.architectures import ARCHITECTURES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights

COMMIT = "cd" * 20
HUB_NAME = f"hf:facebook/{MODEL}"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Answer, ...]]:
    """A random model in the cache of the hub, and what transformers says that it gives."""
    transformers = pytest.importorskip("transformers")
    model = transformers.EsmForMaskedLM(esm_config(ARCHITECTURES[MODEL])).eval()
    cache = tmp_path_factory.mktemp("hf")
    model.save_pretrained(add_repository(cache, f"facebook/{MODEL}", COMMIT))
    answers = []
    for answer in ANSWERS:
        tokens = torch.tensor([answer.tokens])
        with torch.inference_mode():
            logits, hidden = model(tokens).logits, model.esm(tokens).last_hidden_state
        values = (logits if answer.output == "logits" else hidden)[0, :3, :3]
        answers.append(dataclasses.replace(answer, values=tuple(map(tuple, values.tolist()))))
    return cache, tuple(answers)


@pytest.fixture
def fetch(
    published: tuple[Path, tuple[Answer, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(published[0]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(known_answer, "ANSWERS", published[1])
    manifest = tmp_path / "manifest.json"
    return lambda source, **more: fetch_weights(
        MODEL, source, manifest, prove=check_known_answer, **more
    )


def test_what_gives_the_known_numbers_passes(fetch: Callable[..., None], tmp_path: Path) -> None:
    for source in (HUB_NAME, f"{HUB_NAME}@main", f"{HUB_NAME}@{COMMIT}"):
        fetch(source)
        (tmp_path / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("place", "off"), [*((place, 1.5e-4) for place in range(2 * 3 * 3)), (0, float("nan"))]
)
def test_one_other_number_ends_it(
    fetch: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    off: float,
) -> None:
    answers = [[list(row) for row in answer.values] for answer in known_answer.ANSWERS]
    answers[place // 9][place // 3 % 3][place % 3] += off
    changed = [
        dataclasses.replace(answer, values=tuple(map(tuple, values)))
        for answer, values in zip(known_answer.ANSWERS, answers, strict=True)
    ]
    monkeypatch.setattr(known_answer, "ANSWERS", changed)
    with pytest.raises(WeightsError, match=f"not the published {MODEL}: its (residues|logits) are"):
        fetch(HUB_NAME)
    assert not (tmp_path / "manifest.json").exists()


def test_an_adapter_makes_it_a_model_of_one_s_own(
    fetch: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    fetch(HUB_NAME)
    base = Weights.read(tmp_path / "manifest.json").path
    model = transformers.EsmForMaskedLM.from_pretrained(base)
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    fetch(HUB_NAME, adapter=str(tmp_path / "adapter"))
    assert Weights.read(tmp_path / "manifest.json").adapter


def test_pretrained_is_asked_and_what_is_one_s_own_is_not(
    fetch: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "home/hub/checkpoints" / f"{MODEL}.pt"
    write_fair_esm(ARCHITECTURES[MODEL], path)
    with pytest.raises(WeightsError, match=f"{path}: not the published"):
        fetch("pretrained")
    fetch(str(path))
    fetch("untrained")
    monkeypatch.setitem(ARCHITECTURES, "esm2_tiny", TINY)
    write_fair_esm(TINY, path.with_name("esm2_tiny.pt"))
    fetch_weights("esm2_tiny", "pretrained", tmp_path / "manifest.json", prove=check_known_answer)
