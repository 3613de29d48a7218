"""A shard's life against a model: whatever happens to it in whatever order, its file is right.

The machine starts jobs, kills and stops them at a pass, damages and removes what lies on disk,
changes settings, budgets and the FASTA. The model is a dictionary from a sequence to its vector.
What was on disk and whole, under the settings of now, is never computed again.
"""

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as check
from sequences import embed_residues, random_sequence, write_fasta
from shards import changed, make_job, parts_of, run
from spotesm.base.durable import read_json
from spotesm.sequences.digests import as_hex, digest_sequence
from spotesm.sequences.sharding import split_fasta
from spotesm.shards.checkpoints import Thresholds, open_checkpoints

MOST_RECORDS = 14
PASSES = st.integers(1, 6)
PLACES = st.floats(0, 1, exclude_max=True)
Reference = Callable[[str], np.ndarray]


class LifeOfAShard(RuleBasedStateMachine):
    reference: Reference
    weights: Path

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.rng = random.Random(seed)
        self.records = [self.new_record(i) for i in range(9)]
        fasta = write_fasta(self.folder / "in.fasta", self.records)
        often = Thresholds(sequences=2, seconds=3600, bytes=1 << 30)
        self.job = make_job(self.folder, fasta, self.weights, thresholds=often, tokens_per_batch=60)

    def new_record(self, number: int) -> tuple[str, str]:
        return f"p{number}", random_sequence(self.rng, self.rng.randint(1, 30))

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    # -- what can happen ---------------------------------------------------------------------------

    def attempt(self, faults: str = "") -> int:
        """Run a job to its end, whatever that is; check that nothing was computed again."""
        kept = self.whole_on_disk()
        self.job.output.unlink(missing_ok=True)  # as Snakemake does
        trace = self.folder / "trace"
        trace.unlink(missing_ok=True)
        code = run(self.job, faults=f"trace={trace},{faults}")
        passed = len(trace.read_bytes()) if trace.exists() else 0
        to_do = {as_hex_of(s) for _, s in self.records} - kept
        assert passed <= len(to_do)
        return code

    def whole_on_disk(self) -> set[str]:
        """What a job of now may take over: digests in whole parts of the same settings."""
        bound = self.job.checkpoints / "fingerprint.json"
        if not bound.exists():
            return set()
        wanted = self.job.request.resolve("float32").fingerprint("")
        there = read_json(bound)
        if any(there[name] != value for name, value in wanted.items() if value):
            return set()
        aside = self.folder / "copy"
        shutil.copytree(self.job.checkpoints, aside)
        with open_checkpoints(aside, there, self.job.thresholds) as checkpoints:
            found = {digest for part in checkpoints.read_parts() for digest in as_hex(part.digests)}
        shutil.rmtree(aside)
        return found

    @rule()
    def finish(self) -> None:
        assert self.attempt() == 0
        assert self.job.output.exists()

    @rule(at=PASSES)
    def kill(self, at: int) -> None:
        assert self.attempt(f"killed@{at}") in (-9, 0)

    @rule(at=PASSES)
    def stop(self, at: int) -> None:
        assert self.attempt(f"stopped@{at}") in (143, 0)

    @rule(at=PASSES)
    def run_out_of_memory(self, at: int) -> None:
        assert self.attempt(f"out_of_memory@{at}") == 0

    @rule(at=st.integers(1, 4))
    def fill_the_disk(self, at: int) -> None:
        assert self.attempt(f"disk_full@{at}") in (1, 0)

    @precondition(lambda self: bool(self.checkpoints_there()))
    @rule(which=PLACES, where=PLACES, bit=st.integers(0, 7))
    def damage(self, which: float, where: float, bit: int) -> None:
        path = choose(self.checkpoints_there(), which)
        content = bytearray(path.read_bytes())
        if content:  # it may have been truncated
            content[int(where * len(content))] ^= 1 << bit
        self.replace(path, bytes(content))

    @precondition(lambda self: bool(self.checkpoints_there()))
    @rule(which=PLACES, share=PLACES)
    def truncate(self, which: float, share: float) -> None:
        path = choose(self.checkpoints_there(), which)
        content = path.read_bytes()
        self.replace(path, content[: int(share * len(content))])

    @precondition(lambda self: bool(parts_of(self.job)))
    @rule(which=PLACES)
    def remove(self, which: float) -> None:
        choose(parts_of(self.job), which).unlink()

    @rule(layer=st.sampled_from([-1, 2]), dtype=st.sampled_from(["float32", "float16"]))
    def ask_for_something_else(self, layer: int, dtype: str) -> None:
        self.job = changed(self.job, layers=(layer,), store_dtype=dtype)
        self.job.output.unlink(missing_ok=True)

    @rule(tokens=st.sampled_from([40, 60, 300]), keep=st.booleans())
    def work_otherwise(self, tokens: int, keep: bool) -> None:
        self.job = changed(self.job, tokens_per_batch=tokens, keep_parts=keep)

    @precondition(lambda self: len(self.records) < MOST_RECORDS)
    @rule(again=st.booleans())
    def grow(self, again: bool) -> None:
        number = len(self.records)
        new = (f"p{number}", self.records[0][1]) if again else self.new_record(number)
        self.records.insert(self.rng.randint(0, number), new)
        fasta = write_fasta(self.folder / "in.fasta", self.records)
        rejected, summary = self.folder / "rejected.tsv", self.folder / "split.json"
        split_fasta([fasta], [self.job.fasta], rejected, summary)
        self.job.output.unlink(missing_ok=True)

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def a_file_that_is_there_is_right(self) -> None:
        if not getattr(self, "job", None) or not self.job.output.exists():
            return
        layer = self.job.request.layers[0] % 7
        with h5py.File(self.job.output) as file:
            names, of_record = file["records/sequence_ids"], file["records/sequences"][:]
            assert names.asstr()[:].tolist() == [name for name, _ in self.records]
            rows = file[f"sequences/mean/{layer}"][:][of_record]
            reasons = file["sequences/reasons"].asstr()[:][of_record]
        # A sequence that is alone in the pass that runs out of memory does not fit even alone.
        assert set(reasons) <= {"", "out_of_memory"}
        embedded = reasons == ""
        rows = rows[embedded]
        expected = [self.reference(s, layer).mean(0) for _, s in self.records]
        expected = np.stack(expected)[embedded]
        tolerance = 1e-5 if rows.dtype == np.float32 else 4e-3
        np.testing.assert_allclose(rows, expected, rtol=tolerance, atol=tolerance)

    # -- helpers -----------------------------------------------------------------------------------

    def checkpoints_there(self) -> list[Path]:
        return [*parts_of(self.job), *sorted(self.job.checkpoints.glob("finished.*"))]

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        """Another file under this name: the finished one has a second name, which stays whole."""
        path.unlink()
        path.write_bytes(content)


def as_hex_of(sequence: str) -> str:
    return digest_sequence(sequence.encode()).hex()


def choose(paths: list[Path], share: float) -> Path:
    return paths[int(share * len(paths))]


def test_whatever_happens_to_a_shard(weights_manifest: Path, fair_esm: object) -> None:
    known: dict[tuple[str, int], np.ndarray] = {}

    def reference(sequence: str, layer: int) -> np.ndarray:
        if (sequence, layer) not in known:
            known[sequence, layer] = embed_residues(fair_esm, sequence, layer)
        return known[sequence, layer]

    machine = type("Machine", (LifeOfAShard,), {})
    machine.reference, machine.weights = staticmethod(reference), weights_manifest
    check(
        machine,
        settings=settings(
            max_examples=5,
            stateful_step_count=9,
            suppress_health_check=list(HealthCheck),
        ),
    )
