"""What a process that renders may still ask of the kernel: nearly nothing (Linux, seccomp).

Rendering needs memory, time, and the socket to its worker, which is open already. Everything else
is refused with EPERM: files, sockets, other processes, signals. So code that got out of Jinja's
sandbox reads no secret from a disk or from another process, and reaches no database, no network
and no file of the data folder. A list of what is allowed: what a kernel learns later stays closed.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
# Classic BPF, <linux/filter.h>; the offsets are those of struct seccomp_data.
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

# By machine: its AUDIT_ARCH, and the numbers of what is allowed, from <asm/unistd.h>.
_X86_64 = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "readv": 19, "writev": 20, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "nanosleep": 35, "getitimer": 36, "setitimer": 38, "getpid": 39, "sendto": 44,
    "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60, "uname": 63, "gettimeofday": 96,
    "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108,
    "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "pselect6": 270, "ppoll": 271,
    "set_robust_list": 273, "getrandom": 318, "membarrier": 324, "rseq": 334,
}  # fmt: skip
_AARCH64 = {
    "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222,
    "mprotect": 226, "munmap": 215, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigreturn": 139, "readv": 65, "writev": 66, "sched_yield": 124, "mremap": 216,
    "madvise": 233, "nanosleep": 101, "getitimer": 102, "setitimer": 103, "getpid": 172,
    "sendto": 206, "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "exit": 93, "uname": 160,
    "gettimeofday": 169, "getrusage": 165, "times": 153, "getuid": 174, "getgid": 176,
    "geteuid": 175, "getegid": 177, "getppid": 173, "sigaltstack": 132, "gettid": 178,
    "futex": 98, "sched_getaffinity": 123, "restart_syscall": 128, "clock_gettime": 113,
    "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "pselect6": 72, "ppoll": 73,
    "set_robust_list": 99, "getrandom": 278, "membarrier": 283, "rseq": 293,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_known_here() -> bool:
    """Whether there is a filter for this machine (64-bit Linux on x86 and ARM)."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def confine() -> bool:
    """Close this process, for good; False where the kernel or the machine has no such filter."""
    if not is_known_here():
        return False
    architecture, allowed = _MACHINES[platform.machine()]
    code = _filter(architecture, sorted(allowed.values()))
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(architecture: int, allowed: list[int]) -> bytes:
    """BPF: another instruction set ends the process, whose numbers would mean something else."""
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUALS, architecture, when_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for position, number in enumerate(allowed):
        to_the_end = len(allowed) - position  # past the others and the refusal
        code.append(_instruction(_EQUALS, number, when_true=to_the_end))
    code += [_instruction(_RETURN, _REFUSE), _instruction(_RETURN, _ALLOW)]
    return b"".join(code)


def _instruction(operation: int, value: int, *, when_true: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, when_true, 0, value)
