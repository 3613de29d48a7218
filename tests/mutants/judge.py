"""The tests that judge one mutant, nearest first: fails as soon as one of them notices."""

import subprocess
import sys
from pathlib import Path

QUICK = ("sequences", "request", "hdf5", "embed", "base", "commands", "model", "weights", "machine")
# Which other folders are near to a room.
NEAR = {
    "base": ("embed", "commands"),
    "sequences": ("workflow/test_options.py",),
    "request": ("hdf5", "embed", "model"),
    "model": ("hdf5", "faults"),
    "hdf5": ("faults", "embed"),
    "embed": ("faults",),
    "commands": ("hdf5",),
    "weights": ("model", "hdf5"),
}
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")


def main() -> None:
    """Run folder after folder; exit with pytest's code of the first that fails."""
    diff = ["git", "diff", "--name-only", "--", "workflow_scripts/spotesm"]
    changed = subprocess.run(diff, check=True, capture_output=True, text=True).stdout.split()
    room = Path(changed[0]).parts[2] if changed else ""
    wanted = [room, *NEAR.get(room, ()), *QUICK, "test_old_formats.py", "test_properties.py"]
    for folder in dict.fromkeys([*wanted, "faults", "workflow"]):
        path = Path("tests", folder)
        if path.exists():
            code = subprocess.run([*PYTEST, str(path)]).returncode
            if code:
                sys.exit(code)


if __name__ == "__main__":
    main()
