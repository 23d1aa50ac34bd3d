# SPDX-License-Identifier: MIT
"""A thread of which the kernel refuses a system call, as sandboxes have it do."""

import ctypes
import functools
import inspect
import os
import struct
import threading
from collections.abc import Callable

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
# Of linux/prctl.h and linux/seccomp.h.
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_RET_ERRNO, _RET_ALLOW = 0x50000, 0x7FFF0000
# struct sock_filter of linux/filter.h, and BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ, BPF_RET.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
#: Of asm-generic/unistd.h.
OPENAT2 = 437


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(call: int, error: int) -> None:
    """Have a system call fail from now on in this thread, and in what it starts.

    Args:
        call: its number.
        error: what it fails with.

    """
    instructions = (
        (_LOAD, 0, 0, 0),  # the number of the call: struct seccomp_data
        (_EQUAL, 0, 1, call),
        (_RETURN, 0, 0, _RET_ERRNO | error),
        (_RETURN, 0, 0, _RET_ALLOW),
    )
    program = _Program(4, b"".join(_INSTRUCTION.pack(*one) for one in instructions))
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program))):
        if _LIBC.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def each_error(call: int, *errors: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that has a test run as it is, and where a call fails with each error."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: object, refused: int, **kwargs: object) -> None:
            raised: list[BaseException] = []

            def body() -> None:
                try:
                    if refused:
                        forbid(call, refused)
                        assert _LIBC.syscall(call, -1, b"", b"", 0) == -1
                        assert ctypes.get_errno() == refused
                    test(*args, **kwargs)
                except BaseException as error:
                    raised.append(error)

            thread = threading.Thread(target=body)
            thread.start()
            thread.join()
            if raised:
                raise raised[0]

        own = inspect.signature(test)
        further = inspect.Parameter("refused", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), further]
        )
        names = ["allowed", *(os.strerror(error) for error in errors)]
        return pytest.mark.parametrize("refused", [0, *errors], ids=names)(run)

    return decorate
