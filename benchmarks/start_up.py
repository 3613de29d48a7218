"""What it costs to open a model: preparing its weights once, and opening them in each job.

    .venv/bin/python benchmarks/start_up.py --model esm2_t33_650M_UR50D --file
    .venv/bin/python benchmarks/start_up.py --model esm2_t36_3B_UR50D --sequences 4

Each step is a process of its own, which says what it needed beyond its imports: cpu seconds,
seconds, and memory of its own (RssAnon of Linux: without the mapped pages of files, which jobs
share).
"""

import argparse
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import esm
import torch
from jobs import make_job
from proteins import random_protein
from spotesm.base.paths import UNTRAINED
from spotesm.embed.task import ShardJob
from spotesm.embed.worker import embed_shard
from spotesm.model.engines import start_packed
from spotesm.model.packed import frequencies_of
from spotesm.model.reference import fair_esm_model
from spotesm.weights.architectures import ARCHITECTURES, FREQUENCIES
from spotesm.weights.fetch import fetch_weights
from spotesm.weights.manifest import Weights
from spotesm.weights.prepared import Prepared
from spotesm.weights.untrained import untrained_source

CPU = torch.device("cpu")
RESIDUES = 300  # of each embedded protein
SECONDS_BETWEEN_LOOKS = 0.002

Step = Callable[[Path, str, torch.dtype], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=ARCHITECTURES, default="esm2_t33_650M_UR50D")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--file", action="store_true", help="from a float32 file, too")
    parser.add_argument("--sequences", type=int, help="embed so many proteins, too")
    parser.add_argument("--folder", type=Path, help="where files lie meanwhile")
    arguments = parser.parse_args()
    precision = arguments.precision or "bfloat16"
    print(f"{arguments.model}, {precision}{'':24}cpu s        s     own MiB")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        steps: dict[str, Step] = {
            "prepare untrained weights": prepare_untrained,
            "open prepared weights": open_prepared,
            "open prepared weights again": open_prepared,
        }
        if arguments.file:
            steps |= {
                "(write a float32 file)": write_file,
                "know, check and hash the file": fetch_file,
                "prepare the file": prepare_file,
                "fair-esm's forward, mapped": open_reference,
                "fair-esm's forward, loaded and converted": load_as_before,
            }
        for name, step in steps.items():
            measure(name, step, Path(folder), arguments.model, precision)
        if arguments.sequences:
            rng = random.Random(0)
            job = make_job(
                Path(folder),
                [random_protein(rng, RESIDUES) for _ in range(arguments.sequences)],
                *(Path(folder, "untrained.json"), arguments.model, precision),
                prepared=Path(folder, "prepared"),
            )
            step = partial(embed_few, job)
            measure("embed a shard", step, Path(folder), arguments.model, precision)


def measure(name: str, step: Step, folder: Path, model: str, precision: str) -> None:
    """Run a step in a process of its own, and print what it took."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cpu, wall, own = pool.apply(measured, (step, folder, model, getattr(torch, precision)))
    print(f"{name:45}{cpu:9.2f}{wall:9.2f}{own:12,.0f}")


def measured(
    step: Step, folder: Path, model: str, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Return cpu seconds, seconds, and the most own memory above what imports took, MiB."""
    torch.zeros(1).add_(1)
    before, cpu, wall = own_memory(), time.process_time(), time.perf_counter()
    with watched_memory() as looks:
        step(folder, model, dtype)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu, wall, max(looks) - before


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Look at this process' own memory again and again, MiB."""
    looks, end = [own_memory()], threading.Event()

    def watch() -> None:
        while not end.wait(SECONDS_BETWEEN_LOOKS):
            looks.append(own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    yield looks
    end.set()
    thread.join()
    looks.append(own_memory())


def own_memory() -> float:
    """Return the memory of this process that no file backs, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


# -- steps -----------------------------------------------------------------------------------------


def prepare_untrained(folder: Path, model: str, dtype: torch.dtype) -> None:
    """Draw the numbers of each tensor, and write them as the engine takes them."""
    fetch_weights(model, UNTRAINED, folder / "untrained.json")
    Prepared(Weights.read(folder / "untrained.json"), dtype, folder / "prepared").make()


def open_prepared(folder: Path, model: str, dtype: torch.dtype) -> None:
    """What a job does before its first batch."""
    start_packed(Weights.read(folder / "untrained.json"), CPU, dtype, folder / "prepared")


def write_file(folder: Path, model: str, dtype: torch.dtype) -> None:
    """Write the same numbers as fair-esm's format has them, in float32."""
    source = untrained_source(ARCHITECTURES[model])
    shape = ARCHITECTURES[model]
    config = argparse.Namespace(
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.embedding_dim,
        encoder_attention_heads=shape.attention_heads,
        token_dropout=True,
    )
    regression = {n: source.get(n) for n in source.names if n.startswith("contact_head")}
    trunk = {
        f"encoder.{n}" if n.startswith("lm_head") else f"encoder.sentence_encoder.{n}": source.get(
            n
        )
        for n in source.names - regression.keys()
    }
    frequencies = frequencies_of(shape.embedding_dim // shape.attention_heads)
    for layer in range(shape.layers):
        trunk[f"encoder.sentence_encoder.layers.{layer}.self_attn.{FREQUENCIES}"] = frequencies
    torch.save({"cfg": {"model": config}, "model": trunk}, folder / f"{model}.pt")
    torch.save({"model": regression}, folder / f"{model}-contact-regression.pt")


def fetch_file(folder: Path, model: str, dtype: torch.dtype) -> None:
    """What rule fetch_weights does: once a source."""
    fetch_weights(model, str(folder / f"{model}.pt"), folder / "file.json", contacts=True)


def prepare_file(folder: Path, model: str, dtype: torch.dtype) -> None:
    """Check the file's sha256, and write its tensors as the engine takes them."""
    Prepared(Weights.read(folder / "file.json"), dtype, folder / "prepared").make()


def open_reference(folder: Path, model: str, dtype: torch.dtype) -> None:
    """What `verify` and `engine: reference` do, the file's sha256 included."""
    fair_esm_model(Weights.read(folder / "file.json").open())


def load_as_before(folder: Path, model: str, dtype: torch.dtype) -> None:
    """The way without prepared weights: fair-esm's own loader, then conversion in memory."""
    torch.serialization.add_safe_globals([argparse.Namespace])
    loaded, _ = esm.pretrained.load_model_and_alphabet(str(folder / f"{model}.pt"))
    loaded.to(dtype)


def embed_few(job: ShardJob, folder: Path, model: str, dtype: torch.dtype) -> None:
    """A whole job, from its work order to its HDF5 file."""
    embed_shard(job)


if __name__ == "__main__":
    main()
