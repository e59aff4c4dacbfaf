"""A process that does what it is handed: pairs of function and arguments come in, results go out, pickled.

Started as `python -m isthmus.matrix.worker` rather than forked, which TVM does not survive, and without
multiprocessing, which would run the caller's main module once more.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys


def main() -> None:
    """Work until whoever started us closes our input, or is gone."""
    gc.set_threshold(100_000, 50, 100)  # as the command line does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that is printed may come between
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: tuple[bool, object] = True, function(*arguments)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            answer = False, error
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
