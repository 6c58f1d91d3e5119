"""The limits of this process: open files, memory, threads, and what to try where one is hit."""

from __future__ import annotations

import contextlib
import errno

from config import UserError

FILES_NEEDED, FILES_WANTED = 64, 4096  # open at once: torch, the database, caches and loaders
OUT_OF_MEMORY = (  # as the loader, torch's allocator, oneDNN and C++ report it
    *("failed to map segment", "allocate memory", "not enough memory", "bad_alloc"),
    "could not create a primitive",
)
ADDRESS_SPACE_WANTED = 8 << 30  # bytes; the libraries of torch for CUDA alone take some GiB


def require_files() -> None:
    """Allow as many open files as a run can need. Raises UserError where too few are allowed."""
    soft = raise_file_limit(FILES_WANTED)
    if soft is not None and soft < FILES_NEEDED:
        raise UserError(
            f"only {soft} open files are allowed, and {FILES_NEEDED} are needed; raise the limit "
            f"with ulimit -n {FILES_WANTED}"
        )


def raise_file_limit(wanted: int) -> int | None:
    """Allow this process `wanted` open files, or as many as it may; the limit, None: unlimited."""
    try:
        import resource
    except ImportError:
        return None  # not POSIX
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # macOS allows less than its unlimited hard limit
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
    return soft


def memory_note() -> str | None:
    """A remark where this process may use so little memory that torch can abort without a word."""
    limit = _address_space()
    if limit is None or limit >= ADDRESS_SPACE_WANTED:
        return None
    return (
        f"note: only {limit / 2**30:.1f} GiB of address space are allowed, which may be too "
        "little; ulimit -v unlimited removes the limit"
    )


def limit_reached(error: BaseException) -> str | None:
    """What to try where an error comes from a limit of this process; None for any other error."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        text = "Too many open files"
    if "Too many open files" in text:
        return f"raise the number of open files with ulimit -n {FILES_WANTED}"
    if "can't start new thread" in text:
        return "raise what this shell allows: ulimit -u for threads, ulimit -v for memory"
    memory = isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)
    if memory and _address_space() is not None:
        return "remove the limit of memory with ulimit -v unlimited"
    return None


def _address_space() -> int | None:
    """Bytes of address space that this process may use; None without a limit."""
    try:
        import resource
    except ImportError:
        return None  # not POSIX
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
