"""What the operating system allows a process."""

import resource

from spotesm.base.failures import UserError

OTHERS = 64  # files that a process has open besides


def allow_open_files(n: int) -> None:
    """Let this process have `n` files open at once.

    Raises:
        UserError: it may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(
            f"{wanted} files have to be open at once, but this machine allows {hard} (ulimit -n); "
            "raise that, or set shards: to fewer, and run again"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
