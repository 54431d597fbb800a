"""Threads of libraries that stay known to Python, so that processes can be forked beside them.

A thread that Python did not start gets a state while it uses the interpreter. To make one, Python takes the lock of the
list of states before it takes the interpreter, so the main thread may fork at that moment. Before Python 3.12 (and late
releases of 3.11: python/cpython issue 112275) the new process, a worker of a loader say, then waits for this lock for
ever, before it has run a line. That was seen with Python 3.11.7 and PyTorch 2.11, below `_PyThreadState_DeleteExcept`,
where gloo's threads drop the tensors of a collective that has returned. A thread that keeps its state takes no such
lock; PyTorch does the same for the threads of its automatic differentiation.
"""

import ctypes
import threading


class KeptThreadStates:
    """Lets every thread that calls `keep` have its state until it ends; `threads` are their identities."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self._main = threading.get_ident()

    def keep(self, _: object = None) -> None:
        """For the calling thread, if it is not the one that made this object; accepts what callbacks are given."""
        own = threading.get_ident()
        if own != self._main and own not in self.threads:
            ctypes.pythonapi.PyGILState_Ensure()  # never released, which would count the users of the state down
            self.threads.add(own)
