"""What the kernel holds a process to that reads untrusted bytes; nothing here needs privileges.

Each guard is asked for and reported by name: a kernel or container that has none of them is not an
error here, but whoever insists on one can see that it is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from dataclasses import dataclass

LANDLOCK = "landlock"
SECCOMP = "seccomp"
LIMITS = "limits"

ALL_GUARDS = (LANDLOCK, SECCOMP, LIMITS)

_NO_NEW_PRIVILEGES = 38
_SECCOMP = 22
_FILTER = 2

# Landlock's three system calls have the same numbers on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """Numbers of an architecture's system calls.

    Attributes:
        audit: how seccomp names the architecture.
        allowed: calls that reading open files, writing to open files and ending take.
        mapping: calls that make memory, of which none may make code.
    """

    audit: int
    allowed: tuple[int, ...]
    mapping: tuple[int, int]


_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        # read write close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl
        # pread64 pwrite64 readv writev sched_yield mremap madvise getpid exit fcntl ftruncate
        # sigaltstack gettid futex restart_syscall clock_gettime exit_group tgkill newfstatat
        # getrandom statx rseq
        allowed=(
            0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 25, 28, 39, 60, 72, 77, 131,
            186, 202, 219, 228, 231, 234, 262, 318, 332, 334,
        ),
        mapping=(9, 10),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        allowed=(
            63, 64, 57, 80, 62, 215, 214, 134, 135, 139, 29, 67, 68, 65, 66, 124, 216, 233, 172, 93,
            25, 46, 132, 178, 98, 128, 113, 94, 131, 79, 278, 291, 293,
        ),
        mapping=(222, 226),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the process may use.

    Attributes:
        cpu_seconds: processor time (s).
        memory_bytes: address space.
        file_bytes: size of any one file.
    """

    cpu_seconds: int
    memory_bytes: int
    file_bytes: int


def confine(ceilings: Ceilings) -> tuple[str, ...]:
    """Give up everything but files that are open already; the names of the guards that hold.

    Afterwards this process opens no file, makes no connection and starts no program, for good.
    Modules must have been imported before.
    """
    held = [_limit(ceilings)]
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0:
            held += [_landlock(library), _seccomp(library)]
    return tuple(sorted(name for name in held if name))


def _limit(ceilings: Ceilings) -> str:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: ceilings.cpu_seconds,
        resource.RLIMIT_FSIZE: ceilings.file_bytes,
        resource.RLIMIT_AS: ceilings.memory_bytes,
    }
    try:
        for which, value in wanted.items():
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
    except (ValueError, OSError):  # a system that has not all of them
        return ""
    return LIMITS


def _landlock(library: ctypes.CDLL) -> str:
    """Forbid every access by name: files, TCP, other processes' sockets and signals."""
    version = library.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    if version < 1:
        return ""
    files = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    rules = struct.pack("<Q", (1 << files) - 1)
    if version >= 4:
        rules += struct.pack("<Q", 0b11)
    if version >= 6:
        rules += struct.pack("<Q", 0b11)
    ruleset = library.syscall(_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return ""
    done = library.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return LANDLOCK if done == 0 else ""


def _seccomp(library: ctypes.CDLL) -> str:
    """Let every system call fail but those on the list."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.byteorder != "little":
        return ""
    program = _program(machine)
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    return SECCOMP if library.prctl(_SECCOMP, _FILTER, header, 0, 0) == 0 else ""


def _program(machine: _Machine) -> list[bytes]:
    """Instructions of the kernel's packet filter, as `struct sock_filter`."""
    load, equal, has, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM

    def step(code: int, value: int, when: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("<HBBI", code, when, otherwise, value)

    program = [step(load, 4), step(equal, machine.audit, 1, 0), step(give, refuse), step(load, 0)]
    for number in machine.allowed:
        program += [step(equal, number, 0, 1), step(give, allow)]
    for number in machine.mapping:
        # The third argument says what the memory is for; 4 is code.
        program += [
            step(equal, number, 0, 4),
            step(load, 16 + 2 * 8),
            step(has, 4, 1, 0),
            step(give, allow),
            step(give, refuse),
        ]
    return [*program, step(give, refuse)]
