"""Python's search for cyclic garbage, put off while many small objects are made that hold no cycles.

A trace leaves hundreds of thousands of objects behind. Every so many new ones Python walks through all of
them in search of cycles: where a program of ten thousand ops is walked once, that is a third of the time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Find no cyclic garbage meanwhile; also a decorator."""
    was_running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_running:
            gc.enable()
