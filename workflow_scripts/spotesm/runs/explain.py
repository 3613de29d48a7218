"""What went wrong, in one block: the last error of every job of a run that failed."""

from collections.abc import Iterator
from pathlib import Path

from spotesm.base.journal import Journal

ERROR = " ERROR "


def explain_failures(results: Path, checkpoints: Path | None, since: float) -> str:
    """Return a block of text on the jobs whose logs end with an error; empty if there are none.

    Args:
        results: the folder `results` of the run.
        checkpoints: what the config names as `checkpoint: dir`, if anything.
        since: logs that have not been written after this time (seconds since 1970) are old.
    """
    logs_of_error: dict[str, list[Path]] = {}
    for log in sorted(results.rglob("logs/**/*.log")):
        if log.stat().st_mtime >= since and (error := last_error(log)):
            logs_of_error.setdefault(error, []).append(log)
    lines = []
    for error, (log, *others) in logs_of_error.items():
        name = f"{name_of(log, results)}{failure_type(log, results, checkpoints)}"
        more = f", and {len(others)} more jobs" if others else ""
        lines += [f"  {error}", f"    in {name}{more}", f"    log: {log}"]
    return "\n".join(["spotESM could not finish:", *lines]) if lines else ""


def last_error(log: Path) -> str:
    """Return the message of the last error in a log, without a stack trace."""
    errors = [line for line in read_lines(log) if ERROR in line]
    return errors[-1].partition(ERROR)[2].strip() if errors else ""


def read_lines(log: Path) -> Iterator[str]:
    """Yield the lines of a log, whatever is in them."""
    with open(log, encoding="utf-8", errors="replace") as file:
        yield from file


def name_of(log: Path, results: Path) -> str:
    """Return what a log is of: rule, shard and dataset."""
    parts = log.relative_to(results).with_suffix("").parts
    dataset, (rule, *shard) = parts[0], parts[parts.index("logs") + 1 :]
    of_dataset = f" of {dataset}" if dataset != "logs" else ""
    return f"{rule}{of_dataset}" if not shard else f"{rule}, shard {shard[0]}{of_dataset}"


def failure_type(log: Path, results: Path, checkpoints: Path | None) -> str:
    """Return the type of failure that the journal of a shard ends with, in brackets."""
    if log.parent.name != "embed_shard":
        return ""
    dataset = log.relative_to(results).parts[0]
    root = checkpoints / dataset if checkpoints else results / dataset / "checkpoints"
    events = Journal(root / log.stem / "journal.jsonl").read()
    failed = events and events[-1]["event"] == "failed"
    return f" [{events[-1]['type']}]" if failed else ""
