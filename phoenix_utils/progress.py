"""How far a stage is, for the notebook that runs it and for whoever waits outside."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Progress:
    """How far a stage is: one line that a notebook updates in place and that the runner reads from a file."""

    def __init__(self, folder: Path, total: int, unit: str):
        self.path, self.total, self.unit = folder / "progress.json", total, unit
        self.started = self.written = time.monotonic()
        self.handle, self.first = None, None
        self._show(f"0 of {total:,} {unit}")

    def update(self, done: int, **details: Any) -> None:
        """Report that `done` units are finished; `details` (loss, characters/s) are shown beside them."""
        if self.first is None:
            self.first = done
        now = time.monotonic()
        if now - self.written < 1 and done < self.total:
            return
        self.written = now
        fresh, elapsed = done - self.first, now - self.started
        left = f" · {(self.total - done) * elapsed / fresh:.0f} s left" if 0 < fresh and done < self.total else ""
        extra = "".join(f" · {key} {value}" for key, value in details.items())
        self._show(f"{done:,} of {self.total:,} {self.unit}{extra}{left}")

    def close(self, message: str) -> None:
        """Replace the line by its last word."""
        self._show(message)

    def _show(self, line: str) -> None:
        # Lost progress is no harm, so this file is renamed into place but never synced.
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"line": line}), encoding="utf-8")
        os.replace(partial, self.path)
        show = _notebook_display()
        if show is None:
            return
        shown = {"text/plain": line}
        if self.handle is None:
            self.handle = show(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


def _notebook_display() -> Any:
    """IPython's display inside a kernel, None elsewhere; IPython is never imported for its own sake."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    return display if get_ipython() is not None else None
