"""What a process frees stays with it: counted by the pages that the system hands out."""

import platform
import subprocess
import sys

import pytest

# Each round takes and frees what glibc would map anew: 48 MiB, 12,288 pages of 4 KiB. Small blocks
# that come to lie between may keep what was freed from fitting again for a dozen rounds.
CODE = """
import resource, sys
import torch
from spotesm.machine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
pages = []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 << 20)
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(max(pages[-10:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    pages = {}
    for way in ("keep", "give"):
        command = [sys.executable, "-c", CODE, way]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        pages[way] = int(done.stdout)
    assert pages["keep"] < pages["give"] / 10
