"""Settings that come with weights: each is honoured, harmless, or ends the run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spotesm.base.failures import WeightsError
from spotesm.sequences.alphabet import RESIDUES
from spotesm.weights.architectures import ARCHITECTURES, ROTARY_BASE, Architecture, model_called

# Keys of transformers' config.json that change no embedding, whatever the model.
_HARMLESS = re.compile(
    "_name_or_path|architectures|transformers_version|(torch_)?dtype|use_cache|initializer_range|"
    ".*dropout(_prob)?|id2label|label2id|num_labels|problem_type|finetuning_task|return_dict.*|"
    "output_.*|vocab_list|bos_token_id|eos_token_id|cls_token_id|sep_token_id|tokenizer_class|"
    "task_specific_params|gradient_checkpointing|attn_implementation|_attn_implementation.*|"
    "chunk_size_feed_forward|prefix|torchscript|is_encoder_decoder|classifier_.*|"
    # How text was once generated, which old versions of transformers wrote for every model.
    "(max|min)_length|temperature|top_[kp]|typical_p|num_(beams|beam_groups|return_sequences)|"
    "(repetition|length|diversity)_penalty|encoder_no_repeat_ngram_size|no_repeat_ngram_size|"
    "early_stopping|do_sample|remove_invalid_values"
)


@dataclass(frozen=True)
class Must:
    """A setting that must have one of some values.

    Attributes:
        be: the values.
        default: what it is where it is not said.
    """

    be: tuple[object, ...]
    default: object = None


def check_settings(
    where: str,
    given: Mapping[str, object],
    musts: Mapping[str, Must],
    harmless: Callable[[str], bool],
) -> None:
    """Check every setting: as it must be, harmless, or as good as not said.

    Raises:
        WeightsError: one is not; names it.
    """
    for name, must in musts.items():
        value = given.get(name, must.default)
        if value not in must.be:
            wanted = " or ".join(map(repr, must.be))
            unsaid = "" if name in given else ", as it is where nothing is said"
            raise WeightsError(
                f"{where}: {name} is {value!r}{unsaid}; spotESM computes {wanted} only"
            )
    for name, value in given.items():
        if name not in musts and value and not harmless(name):
            raise WeightsError(
                f"{where}: {name} is {value!r}, which spotESM does not know; if it changes no "
                "embeddings, remove it there"
            )


def is_harmless_in_config(name: str) -> bool:
    """Whether a key of config.json changes no embedding, whatever the model."""
    return bool(_HARMLESS.fullmatch(name))


def check_sizes(where: str, given: Mapping[str, object], sizes: Mapping[str, int]) -> None:
    """Check the sizes that must be said.

    Raises:
        WeightsError: one is another, or not said.
    """
    for name, wanted in sizes.items():
        if given.get(name) != wanted:
            raise WeightsError(
                f"{where}: {name} is {given.get(name)}, but that of model: name is {wanted}"
            )


def check_rope(where: str, rope: object) -> None:
    """Check `rope_parameters`, if they are there.

    Raises:
        WeightsError: they are others than the usual.
    """
    if rope is None:
        return
    allowed = {"rope_theta": ROTARY_BASE, "rope_type": "default"}
    if not isinstance(rope, dict) or any(allowed.get(k) != v for k, v in rope.items()):
        raise WeightsError(f"{where}: rope_parameters is {rope!r}; spotESM computes {allowed} only")


def check_vocabulary(path: Path | None) -> None:
    """Check that the vocab.txt beside a model, if it is there, numbers tokens as we do.

    Raises:
        WeightsError: it does not.
    """
    if path is None:
        return
    ours = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES.decode()]
    theirs = path.read_text(encoding="utf-8", errors="replace").split()
    if theirs[: len(ours)] != ours:
        raise WeightsError(f"{path}: numbers tokens in another order than ESM models do")


def check_origin(where: str, origin: str, architecture: Architecture) -> None:
    """Check that what a model was made from, if it is known by name, has the config's shape.

    Raises:
        WeightsError: it is another one.
    """
    name = model_called(origin)
    if name and ARCHITECTURES[name] != architecture:
        raise WeightsError(f"{where}: made from {name}; set model: name to it")
