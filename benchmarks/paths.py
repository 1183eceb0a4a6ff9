"""Where results lie."""

from pathlib import Path

WRITTEN = Path("runs")
"""Where every command has a folder of its own for what it writes, unless `--out` says otherwise."""
COMMITTED = Path(__file__).parent / "results"
"""The results that README and documentation show; nothing writes there but by `--out`."""
