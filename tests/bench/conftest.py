"""Benchmarks are no part of the package: they are found from the root, as by `python -m bench.zoo`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
