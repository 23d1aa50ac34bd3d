# SPDX-License-Identifier: MIT
"""Work that goes on in a process of its own, beside what is tested."""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def beside(what: str, work: Callable[[], object]) -> Iterator[None]:
    """Do something over and over in a process of its own, until the context ends.

    Args:
        what: it is, for the message when it has ended by itself.
        work: is called again and again.

    """
    pid = os.fork()
    if not pid:
        try:
            while True:
                work()
        except BaseException:  # whatever: this is no process of pytest's
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"the {what} ended by itself"
