"""Measurements of the agent against floors that are taken in the same run; see `__main__`.

The hosts and chains are those of the tests' lab, which is found here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results.json"

if (_lab := str(ROOT / "tests")) not in sys.path:
    sys.path.insert(0, _lab)
