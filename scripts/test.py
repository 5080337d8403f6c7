"""`make test`: runs all tests and ends with a line that counts them.

Two parts, since a lab is a world of its own and a Docker engine is of the whole machine: what needs
no engine runs in the lab (`scripts/lab`), the end-to-end tests in tests/e2e outside of it.
Arguments go to pytest in both parts; WORKERS is how many run at once in the lab. Standard library
only.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMPS = ROOT / ".stamps"
NOTHING_CHOSEN = 5
"""pytest's exit code where no test was selected; `ARGS` may choose from one part only."""


def main(arguments: list[str]) -> int:
    """Run both parts; 0 when all passed."""
    workers = ["-n", os.environ.get("WORKERS") or "2", "--dist", "worksteal"]
    lab = [str(ROOT / "scripts/lab"), *pytest("lab"), *workers, "--ignore=tests/e2e"]
    codes, counted = [], Counter[str]()
    for part, words in (("lab", lab), ("e2e", [*pytest("e2e"), "tests/e2e"])):
        (STAMPS / f"{part}.xml").unlink(missing_ok=True)
        codes.append(subprocess.run([*words, *arguments], cwd=ROOT, check=False).returncode)
        counted += count(STAMPS / f"{part}.xml")
        if codes[-1] not in (0, NOTHING_CHOSEN):
            break
    failed = next((code for code in codes if code not in (0, NOTHING_CHOSEN)), 0)
    if not failed and not counted["passed"]:
        failed = NOTHING_CHOSEN
    line = ", ".join(f"{counted[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    color = "31" if failed else "32"
    print(f"\033[{color}m{line}\033[0m" if sys.stdout.isatty() else line, flush=True)
    return failed


def pytest(part: str) -> list[str]:
    """The command of one part, whose results are counted from a file."""
    results = f"--junitxml={STAMPS / part}.xml"
    return [sys.executable, "-m", "pytest", "-m", "not slow", results]


def count(results: Path) -> Counter[str]:
    """How many tests passed, failed and were skipped; nothing where a part did not get that far."""
    counted = Counter[str]()
    if results.exists():
        for suite in ET.parse(results).getroot().iter("testsuite"):
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped = int(suite.get("skipped", 0))
            counted["failed"] += failed
            counted["skipped"] += skipped
            counted["passed"] += int(suite.get("tests", 0)) - failed - skipped
    return counted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
