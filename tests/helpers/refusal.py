"""System calls that the kernel refuses a process and its children, as a file system without them would."""

from __future__ import annotations

import ctypes
import platform
import struct

NUMBERS = {
    "x86_64": {"flock": 73, "fallocate": 285, "link": 86, "linkat": 265},
    "aarch64": {"flock": 32, "fallocate": 47, "linkat": 37},
}
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # prctl's
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def refuse(error: int, *calls: str) -> None:
    """Have the kernel answer these system calls with an error number, until this process and its children end."""
    known = NUMBERS[platform.machine()]
    program = [struct.pack("HBBI", LOAD, 0, 0, 0)]  # the number of the system call
    for call in calls:
        if call in known:  # aarch64 has linkat alone
            program.append(struct.pack("HBBI", JUMP_EQUAL, 0, 1, known[call]))
            program.append(struct.pack("HBBI", RETURN, 0, 0, ERRNO | error))
    program.append(struct.pack("HBBI", RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, *arguments in ((NO_NEW_PRIVILEGES, 1, 0), (SECCOMP, FILTER, ctypes.create_string_buffer(described))):
        if libc.prctl(option, *arguments, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
