"""Who is compared: each maps sequences to their means over residues, in a process of its own."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import esm
import numpy as np
import torch
from proteins import random_proteins
from safetensors.torch import save_file
from spotesm.machine.allocator import keep_freed_memory
from spotesm.model.batching import plan_batches
from spotesm.model.budget import choose_token_budget
from spotesm.model.encoder import Batch, Encoder
from spotesm.model.independent import esmc_of_transformers, independent_forward
from spotesm.model.packed import PackedModel, frequencies_of
from spotesm.model.reference import fair_esm_model
from spotesm.request.outputs import Outputs
from spotesm.sequences.alphabet import PADDING, tokenise
from spotesm.sequences.long_sequences import LongSequences
from spotesm.weights.architectures import Architecture
from spotesm.weights.manifest import Weights
from spotesm.weights.tensors import Source
from transformers import EsmConfig, EsmModel

MOST_RESIDUES = 1022
TRIAL_PROTEINS = 256
FAIR_ESM_TOKENS = 4096  # the default of fair-esm's extract.py
HUGGING_FACE_TOKENS = {"cpu": (4096,), "cuda": (4096, 16384, 65536)}  # the fastest is taken
ESM_CPP_TOKENS = 4096

ESM_CPP = ("esm-cpp", "esm-cpp, logits", "esm-cpp int8, logits")

Contestant = Callable[[list[str]], np.ndarray]  # (n, D)


class Apart:
    """A contestant in a process of its own, in which no other has prepared memory or threads."""

    def __init__(self, name: str, manifest: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.connection, theirs = get_context("spawn").Pipe()
        arguments = (theirs, name, manifest, device, dtype)
        get_context("spawn").Process(target=serve, args=arguments, daemon=True).start()
        theirs.close()

    def __call__(self, sequences: list[str]) -> np.ndarray:
        """Return the means over residues, (n, D)."""
        self.connection.send(sequences)
        return self.connection.recv()


def serve(
    connection: Connection, name: str, manifest: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Embed what comes through the connection, until its other end is closed."""
    embed = build(name, Weights.read(manifest).open(), device, dtype)
    with suppress(EOFError):
        while True:
            connection.send(embed(connection.recv()))


def names_of(
    architecture: Architecture, device: torch.device, dtype: torch.dtype, esm_cpp: bool
) -> list[str]:
    """Return who takes part; esm-cpp, which knows float32 on a CPU alone, if it is asked for."""
    names = ["spotesm", "huggingface-sdpa"]
    if architecture.family == "esm2":
        names.insert(1, "fair-esm")
    if device.type == "cuda" and dtype.itemsize == 2 and find_spec("flash_attn"):
        names.append("huggingface-flash_attention_2")
    if not esm_cpp:
        return names
    if not find_spec("esm_cpp"):
        print("esm-cpp is not installed: pip install --no-deps esm-cpp==0.2.1")
        return names
    return [*names, *ESM_CPP]


def build(name: str, source: Source, device: torch.device, dtype: torch.dtype) -> Contestant:
    """Return a contestant by its name."""
    if name == "spotesm":
        return spotesm_contestant(source, device, dtype)
    dim, attention = source.architecture.embedding_dim, name.removeprefix("huggingface-")
    if source.architecture.family == "esmc":
        other = hugging_face_esmc(source, attention, dtype).to(device)
        return hugging_face_contestant(other, device, dim)
    model = fair_esm_model(source)
    if name == "fair-esm":
        return fair_esm_contestant(model, device)
    if attention != name:
        other = hugging_face_esm2(model, attention).to(device, dtype)
        return hugging_face_contestant(other, device, dim)
    return esm_cpp_contestant(name, model)


def spotesm_contestant(source: Source, device: torch.device, dtype: torch.dtype) -> Contestant:
    """Our packed forward, batched as `embed_shard` does."""
    if device.type == "cpu":
        keep_freed_memory()
    packed = PackedModel.of_source(source, device, dtype)
    outputs = Outputs(("mean",), (packed.n_layers,))
    long_sequences = LongSequences("window", MOST_RESIDUES, 0, "reject")
    encoder = Encoder(lambda _: packed, dtype, outputs, long_sequences)
    token_budget = choose_token_budget(packed, outputs, MOST_RESIDUES)

    def embed(sequences: list[str]) -> np.ndarray:
        lengths = np.array([len(sequence) for sequence in sequences])
        batches = plan_batches(long_sequences.count_tokens(lengths), token_budget)
        reading = (Batch.of([sequences[i].encode() for i in batch]) for batch in batches)
        means = np.empty((len(sequences), packed.embedding_dim), np.float32)
        embedded = encoder.embed_each(reading, token_budget)
        for batch, results in zip(batches, embedded, strict=True):
            (means[batch],) = results.rows.values()
        return means

    return embed


def fair_esm_contestant(model: esm.model.esm2.ESM2, device: torch.device) -> Contestant:
    """What fair-esm's extract.py does: its batches, its padded float32 forward, its means."""
    model = model.to(device)
    layer = model.num_layers

    @torch.inference_mode()
    def embed(sequences: list[str]) -> np.ndarray:
        names = [str(i) for i in range(len(sequences))]
        dataset = esm.FastaBatchedDataset(names, sequences)
        loader = torch.utils.data.DataLoader(
            dataset,
            collate_fn=model.alphabet.get_batch_converter(MOST_RESIDUES),
            batch_sampler=dataset.get_batch_indices(FAIR_ESM_TOKENS, extra_toks_per_seq=1),
        )
        means = np.empty((len(sequences), model.embed_dim), np.float32)
        for labels, strings, tokens in loader:
            tokens = tokens.to(device)
            hidden = model(tokens, repr_layers=[layer])["representations"][layer].cpu()
            for row, (label, string) in enumerate(zip(labels, strings, strict=True)):
                means[int(label)] = hidden[row, 1 : len(string) + 1].mean(0)
        return means

    return embed


def exact_means(source: Source, sequences: list[str]) -> dict[int, np.ndarray]:
    """Means over residues of the last layer, (n, D), and of the logits, (n, V), by their width.

    By an independent forward in float32, sequence by sequence.
    """
    forward, last = independent_forward(source), source.architecture.layers
    with torch.inference_mode():
        computed = [forward.compute(sequence.encode(), [last], False) for sequence in sequences]
    hidden = np.stack([one.hidden[last][1:-1].mean(0).numpy() for one in computed])
    logits = np.stack([one.logits[1:-1].mean(0).numpy() for one in computed])
    return {hidden.shape[1]: hidden, logits.shape[1]: logits}


def hugging_face_contestant(model: torch.nn.Module, device: torch.device, dim: int) -> Contestant:
    """A model of Hugging Face's, on batches of sequences sorted by length, as large as suits it."""

    @torch.inference_mode()
    def embed(sequences: list[str], most_tokens: int) -> np.ndarray:
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        means = np.empty((len(sequences), dim), np.float32)
        while order:
            size = max(1, most_tokens // (len(sequences[order[0]]) + 2))
            batch, order = order[:size], order[size:]
            own = [torch.from_numpy(tokenise(sequences[i].encode())).long() for i in batch]
            tokens = torch.nn.utils.rnn.pad_sequence(own, True, PADDING)
            mask = tokens != PADDING
            hidden = model(tokens.to(device), attention_mask=mask.to(device)).last_hidden_state
            inner = mask.clone()
            inner[:, 0] = False
            inner[range(len(batch)), mask.sum(1) - 1] = False
            weights = (inner / inner.sum(1, keepdim=True)).to(device)
            means[batch] = torch.einsum("bld,bl->bd", hidden.float(), weights).cpu()
        return means

    sizes = HUGGING_FACE_TOKENS[device.type]
    return partial(embed, most_tokens=sizes[0] if len(sizes) == 1 else fastest(embed, sizes))


def hugging_face_esm2(model: esm.model.esm2.ESM2, attention: str) -> EsmModel:
    """Hugging Face's EsmModel over fair-esm's tensors."""
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=model.mask_idx,
        pad_token_id=model.padding_idx,
        hidden_size=model.embed_dim,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.attention_heads,
        intermediate_size=4 * model.embed_dim,
        position_embedding_type="rotary",
        token_dropout=True,
        layer_norm_eps=1e-5,
        attn_implementation=attention,
    )
    other = EsmModel(config, add_pooling_layer=False)
    # What is missing are constants and the head for contacts; check_agreement would see the rest.
    other.load_state_dict(hugging_face_names(model.state_dict()), strict=False)
    return other.eval()


def hugging_face_esmc(source: Source, attention: str, dtype: torch.dtype) -> torch.nn.Module:
    """Hugging Face's EsmcModel; rotary frequencies stay in float32, as after its own loading."""
    model = esmc_of_transformers(source, dtype).esmc
    model.set_attn_implementation(attention)
    return model


def fastest(embed: Callable[[list[str], int], np.ndarray], sizes: Sequence[int]) -> int:
    """Return with which tokens a batch proteins are embedded fastest; all that fits is tried."""
    proteins = random_proteins(TRIAL_PROTEINS, MOST_RESIDUES)
    seconds = {}
    for most_tokens in sizes:
        try:
            embed(proteins[:8], most_tokens)
            start = time.perf_counter()
            embed(proteins, most_tokens)
            seconds[most_tokens] = time.perf_counter() - start
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return min(seconds, key=seconds.get)


def hugging_face_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename fair-esm's parameters of the encoder as `EsmModel` calls them."""
    inner = {
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense",
        "self_attn_layer_norm": "attention.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "final_layer_norm": "LayerNorm",
    }
    renamed = {"embeddings.word_embeddings.weight": state["embed_tokens.weight"]}
    for name, value in state.items():
        if name.startswith("emb_layer_norm_after."):
            renamed[name.replace("emb_layer_norm_after", "encoder.emb_layer_norm_after")] = value
        if name.startswith("layers."):
            _, layer, module, parameter = (
                *name.split(".", 2)[:2],
                *name.split(".", 2)[2].rsplit(".", 1),
            )
            if module in inner:
                renamed[f"encoder.layer.{layer}.{inner[module]}.{parameter}"] = value
    return renamed


def esm_cpp_contestant(name: str, model: esm.model.esm2.ESM2) -> Contestant:
    """esm-cpp: sequence by sequence, which is its way to hidden states; or its batches.

    Its batches are its fastest call, and give logits alone: their means are no embeddings. Those of
    int8 are what its own quantisation, without calibration, makes of them.
    """
    import esm_cpp

    with TemporaryDirectory() as folder:
        path = Path(folder, "esm-cpp.safetensors")
        save_file(esm_cpp_tensors(model), path)
        theirs = esm_cpp.Model.load_from_safetensors(str(path))
    if "int8" in name:
        theirs.quantize_weights()
    encode = esm_cpp_encoder(esm_cpp)

    def embed(sequences: list[str]) -> np.ndarray:
        hidden = [theirs.forward_with_hidden_states(ids)[1][-1] for ids in encode(sequences)]
        return np.stack([tokens[1:-1].mean(0) for tokens in hidden])

    def mean_logits(sequences: list[str]) -> np.ndarray:
        order = np.argsort([len(sequence) for sequence in sequences])
        means = np.empty((len(sequences), 33), np.float32)
        lengths = np.array([len(sequence) + 2 for sequence in sequences])
        ends = np.cumsum(lengths[order])
        for batch in np.split(order, np.flatnonzero(np.diff(ends // ESM_CPP_TOKENS)) + 1):
            given = theirs.forward_batch(encode([sequences[i] for i in batch]))
            means[batch] = [tokens[1:-1].mean(0) for tokens in given]
        return means

    return mean_logits if "logits" in name else embed


def esm_cpp_encoder(esm_cpp: ModuleType) -> Callable[[list[str]], list[np.ndarray]]:
    """Return what makes tokens of sequences."""
    tokenizer = esm_cpp.Tokenizer()
    return lambda sequences: [np.asarray(tokenizer.encode(s), np.int32) for s in sequences]


def esm_cpp_tensors(model: esm.model.esm2.ESM2) -> dict[str, torch.Tensor]:
    """Name a model's tensors as older versions of transformers did, which is what esm-cpp reads."""
    state = model.state_dict()
    tensors = {f"esm.{name}": x for name, x in hugging_face_names(state).items()}
    for layer in range(model.num_layers):
        name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        tensors[name] = frequencies_of(model.embed_dim // model.attention_heads)
    for name in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias"):
        tensors[f"lm_head.{name}"] = state[f"lm_head.{name}"]
    tensors["lm_head.decoder.weight"] = state["lm_head.weight"]
    return {name: x.contiguous().clone() for name, x in tensors.items()}
