"""The known answers: here those of random models, which transformers itself computes."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import add_repository, esm_config
from models import TINY, TINY_ESMC, make_esmc, write_fair_esm
from spotesm.base.failures import WeightsError
from spotesm.model import known_answer
from spotesm.model.known_answer import KNOWN, Answer, Known, check_known_answer
from spotesm.weights.architectures import ARCHITECTURES, Architecture
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights

COMMIT = "cd" * 20
ESM2, ESMC = "esm2_t6_8M_UR50D", "esmc_300m"


@dataclass(frozen=True)
class Published:
    """A random model in the cache of the hub, and what transformers says that it gives."""

    name: str
    shape: Architecture
    cache: Path
    known: Known

    @property
    def hub(self) -> str:
        return f"hf:{self.known.hub}"


def answered(model: Any, trunk: Any, answer: Answer) -> Answer:
    tokens = torch.tensor([answer.tokens])
    with torch.inference_mode():
        logits, hidden = model(tokens).logits, trunk(tokens).last_hidden_state
    rows, columns = len(answer.values), len(answer.values[0])
    values = (logits if answer.output == "logits" else hidden)[0]
    values = values[answer.first : answer.first + rows, :columns].tolist()
    return dataclasses.replace(answer, values=tuple(map(tuple, values)))


@pytest.fixture(scope="module", params=[ESM2, ESMC])
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    transformers = pytest.importorskip("transformers")
    name, known, shape = request.param, KNOWN[request.param], ARCHITECTURES[request.param]
    if name == ESMC:  # as large a one as needs no minute
        shape = dataclasses.replace(TINY_ESMC, hub=shape.hub)
        model = make_esmc(shape)
    else:
        model = transformers.EsmForMaskedLM(esm_config(shape)).eval()
    cache = tmp_path_factory.mktemp("hf")
    model.save_pretrained(add_repository(cache, known.hub, COMMIT))
    trunk = model.esmc if name == ESMC else model.esm
    answers = tuple(answered(model, trunk, answer) for answer in known.answers)
    return Published(name, shape, cache, dataclasses.replace(known, answers=answers))


@pytest.fixture
def fetch(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(published.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(ARCHITECTURES, published.name, published.shape)
    monkeypatch.setitem(KNOWN, published.name, published.known)
    manifest = tmp_path / "manifest.json"
    return lambda source, **more: fetch_weights(
        published.name, source, manifest, prove=check_known_answer, **more
    )


def test_what_gives_the_known_numbers_passes(
    published: Published, fetch: Callable[..., None], tmp_path: Path
) -> None:
    sources = [published.hub, f"{published.hub}@main", f"{published.hub}@{COMMIT}"]
    for source in [*sources, *(["pretrained"] if published.shape.hub else [])]:
        fetch(source)
        (tmp_path / "manifest.json").unlink()


@pytest.mark.parametrize(("which", "off"), [*((n, 1.5) for n in range(18)), (0, float("nan"))])
def test_one_other_number_ends_it(
    published: Published,
    fetch: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: int,
    off: float,
) -> None:
    """Half of the values, all over both answers, further off than rounding explains."""
    places = [
        (answer, row, column)
        for answer, known in enumerate(published.known.answers)
        for row, values in enumerate(known.values)
        for column in range(len(values))
    ]
    answer, row, column = places[which * len(places) // 18]
    answers = list(published.known.answers)
    values = [list(row) for row in answers[answer].values]
    values[row][column] += off * answers[answer].tolerance
    changed = dataclasses.replace(answers[answer], values=tuple(map(tuple, values)))
    answers[answer] = changed
    monkeypatch.setitem(
        KNOWN, published.name, dataclasses.replace(published.known, answers=answers)
    )
    said = f"not the published {published.name}: its (residues|logits) are"
    with pytest.raises(WeightsError, match=said):
        fetch(published.hub)
    assert not (tmp_path / "manifest.json").exists()


def test_an_adapter_makes_it_a_model_of_one_s_own(
    published: Published, fetch: Callable[..., None], tmp_path: Path
) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    fetch(published.hub)
    base = Weights.read(tmp_path / "manifest.json").path
    model = transformers.AutoModelForMaskedLM.from_pretrained(base)
    target = "q_proj" if published.name == ESMC else "query"
    lora = peft.LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    fetch(published.hub, adapter=str(tmp_path / "adapter"))
    assert Weights.read(tmp_path / "manifest.json").adapter


def test_pretrained_is_asked_and_what_is_one_s_own_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "home/hub/checkpoints" / f"{ESM2}.pt"
    write_fair_esm(ARCHITECTURES[ESM2], path)

    def fetch(source: str, model: str = ESM2) -> None:
        fetch_weights(model, source, tmp_path / "manifest.json", prove=check_known_answer)

    with pytest.raises(WeightsError, match=f"{path}: not the published"):
        fetch("pretrained")
    fetch(str(path))
    fetch("untrained")
    monkeypatch.setitem(ARCHITECTURES, "esm2_tiny", TINY)
    write_fair_esm(TINY, path.with_name("esm2_tiny.pt"))
    fetch("pretrained", "esm2_tiny")


def test_what_is_known_is_of_models_that_there_are() -> None:
    assert known_answer.KNOWN.keys() <= ARCHITECTURES.keys()
    for name, known in KNOWN.items():
        hub = ARCHITECTURES[name].hub
        assert known.hub == (hub or f"facebook/{name}")
        assert {answer.output for answer in known.answers} == {"residues", "logits"}
