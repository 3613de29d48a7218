"""LoRA adapters as peft keeps them, merged into their base: W + alpha / r * B A, in float32.

Hu et al. 2021 (arXiv:2106.09685); rank-stabilised, alpha / sqrt(r): Kalajdzievski 2023
(arXiv:2312.03732). The arithmetic is that of peft's `merge_and_unload`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from spotesm.base.failures import WeightsError
from spotesm.weights.architectures import FREQUENCIES, LM_HEAD
from spotesm.weights.esmc import NAMING as ESMC_NAMING
from spotesm.weights.files import ADAPTER_CONFIG, ModelFiles, read_settings
from spotesm.weights.hugging_face import NAMING as ESM_NAMING
from spotesm.weights.settings import Must, check_origin, check_settings
from spotesm.weights.tensors import Part, Read, Source, check_stored

_MUSTS = {
    "peft_type": Must(("LORA",)),
    "bias": Must(("none",), "none"),
    "use_dora": Must((False, None), False),
    "use_rslora": Must((True, False), False),
    # Others change the base's own weights when training begins, and must be converted first.
    "init_lora_weights": Must((True, False, "gaussian", "eva", "orthogonal"), True),
}
_NO_NUMBERS = re.compile(
    "r|lora_alpha|base_model_name_or_path|revision|task_type|inference_mode|auto_mapping|"
    "target_modules|exclude_modules|modules_to_save|lora_dropout|layers_to_transform|"
    "layers_pattern|peft_version|runtime_config|eva_config|megatron_core|qalora_group_size|"
    "ensure_weight_tying"
)
_LORA = re.compile(r"(.+)\.lora_([AB])(\.default)?\.weight")
_NAMINGS = {"esm1": ESM_NAMING, "esm2": ESM_NAMING, "esmc": ESMC_NAMING}


def merge_adapter(base: Source, files: ModelFiles, tensors: Mapping[str, Read]) -> Source:
    """Return the base with an adapter in it.

    Args:
        files: of the adapter.
        tensors: the names in its file, and what reads each.

    Raises:
        WeightsError: it is of another kind, or does not fit the base.
    """
    where = str(files.tensors[0])
    config_path = files.other(ADAPTER_CONFIG)
    assert config_path is not None
    config = read_settings(config_path)
    check_settings(str(config_path), config, _MUSTS, lambda name: bool(_NO_NUMBERS.fullmatch(name)))
    check_origin(
        str(config_path), str(config.get("base_model_name_or_path", "")), base.architecture
    )
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{config_path}: does not say r and lora_alpha") from error
    if rank < 1:
        raise WeightsError(f"{config_path}: r is {rank}, and should be the rank of its matrices")
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)

    naming = _NAMINGS[base.architecture.family]
    pairs: dict[str, dict[str, Read]] = {}
    merged = dict(base.tensors)
    for name, read in tensors.items():
        lora = _LORA.fullmatch(name)
        module = f"{lora[1]}.weight" if lora else name
        parts = naming.parts_of(module)
        if not parts and naming.is_harmless(module):
            continue
        if not _fits(parts, base, bool(lora)):
            raise WeightsError(f"{where}: {name} belongs to nothing in {base.where} that it fits")
        check_stored(where, name, read())
        for part in parts:
            if not lora:  # a module that was trained whole
                merged[part.name] = part.of(read)
            else:  # where a tensor of the file is several of ours, they share A
                own = read if lora[2] == "A" else part.of(read)
                pairs.setdefault(part.name, {})[lora[2]] = own
    for target, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise WeightsError(f"{where}: half of the adapter of {target} is missing")
        _check_pair(where, target, base.get(target), pair, rank)
        merged[target] = _sum(merged[target], pair["A"], pair["B"], scale)
    if not pairs:
        raise WeightsError(f"{where}: holds no LoRA that changes an embedding")
    return replace(
        base,
        where=f"{base.where} with {files.tensors[0].parent}",
        tensors=merged,
        files=base.files + files.all,
    )


def _fits(parts: Sequence[Part], base: Source, is_lora: bool) -> bool:
    """Whether the base has what an adapter names, in a form that can be changed by itself."""
    shared = {"embed_tokens.weight"} | ({LM_HEAD[0]} if base.architecture.traits.tied else set())
    names = {part.name for part in parts}
    return bool(names) and names <= base.names - {FREQUENCIES} and not (is_lora and names & shared)


def _check_pair(
    where: str, target: str, weight: Tensor, pair: Mapping[str, Read], rank: int
) -> None:
    shapes = tuple(pair["B"]().shape), tuple(pair["A"]().shape)
    wanted = (weight.shape[0], rank), (rank, weight.shape[-1])
    if shapes != wanted:
        raise WeightsError(
            f"{where}: the adapter of {target} has shapes {shapes}, and should have {wanted}"
        )


def _sum(weight: Read, down: Read, up: Read, scale: float) -> Read:
    return lambda: weight().float() + scale * (up().float() @ down().float())
