"""The ablation lab: runs profiles/sweeps/ablations.yaml and stores its table in book/results/ablations.md.

    python benchmarks/ablations.py [FILE.yaml]

A cell that is finished is not run again. Another file's table is printed and not stored.
"""

import sys
import time
from pathlib import Path

import results  # benchmarks/results.py, beside this file

from phoenix_utils import sweep, sweep_cells, sweep_table

LAB = results.ROOT / "profiles" / "sweeps" / "ablations.yaml"


def main() -> int:
    """Run what is missing, then write the table; 1 where a cell failed."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else LAB
    asked, started = sweep_cells.load_sweep(path), time.monotonic()
    cells = sweep.run_sweep(asked, lambda line: print(line, flush=True))
    ran, saved = sweep_cells.seconds_run(cells) / 60, sweep_cells.seconds_saved(cells) / 60
    lines = sweep_table.table_lines(asked, cells)
    failed = [f"{cell.plan.run_dir.name} failed: {cell.failure}" for cell in cells if cell.failure]
    note = f"{sweep_table.NOTE} The stages took {ran:.0f} minutes; sharing equal stages saved {saved:.0f} minutes."
    print("\n".join([*lines, note, *failed, f"{(time.monotonic() - started) / 60:.1f} minutes in all"]))
    if path.resolve() == LAB:
        results.store("ablations", "python benchmarks/ablations.py", [*lines, *(f"\n{line}" for line in failed)], note)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
