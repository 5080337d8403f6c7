"""Import this first in the agent process: it keeps out of memory what the agent never uses.

structlog loads rich wherever it is installed, for a style of tracebacks. The command line needs
rich; in the agent it would be 5 MB for nothing, so there it counts as not installed.
"""

import sys

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # documented: makes imports fail
