"""Odd machines: libraries whose functions stand in front of the C library's, in child processes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NO_LOCKS = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = ENOLCK; return -1; }
"""
# Object stores and shares of Windows, mounted: folders cannot be flushed, files have no modes.
FOREIGN_FILE_SYSTEM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
int fsync(int descriptor) {
  struct stat status;
  if (!fstat(descriptor, &status) && S_ISDIR(status.st_mode)) { errno = EINVAL; return -1; }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}
int fchmod(int descriptor, mode_t mode) { errno = EPERM; return -1; }
int link(const char *old, const char *new) { errno = EPERM; return -1; }
int linkat(int a, const char *old, int b, const char *new, int flags) { errno = EPERM; return -1; }
"""
# A container's user id that no list of users has.
NAMELESS = """
#include <pwd.h>
#include <stddef.h>
struct passwd *getpwuid(uid_t user) { return NULL; }
int getpwuid_r(uid_t user, struct passwd *entry, char *buffer, size_t size, struct passwd **found) {
  *found = NULL;
  return 0;
}
"""


def preload(folder: Path, *sources: str) -> dict[str, str]:
    """Compile libraries into a folder; the environment that loads them.

    The test is skipped where there is no C compiler.
    """
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    libraries = []
    for number, source in enumerate(sources):
        code = folder / f"preload{number}.c"
        code.write_text(source)
        libraries.append(str(code.with_suffix(".so")))
        command = ["cc", "-shared", "-fPIC", "-o", libraries[-1], code, "-ldl"]
        subprocess.run(command, check=True)
    return {"LD_PRELOAD": ":".join([*libraries, *filter(None, [os.environ.get("LD_PRELOAD")])])}
