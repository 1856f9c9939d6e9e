"""Known vulnerabilities of every pinned version, by pip-audit: `make audit`.

Exit code 0: all were looked up and none has one; 1: some have; 3: not all could be looked up. pip-audit itself says
"none found" and 0 where it has looked nothing up.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "constraints").glob("*.txt"))


def audit(path: Path) -> tuple[list[str], int, int]:
    """Of a constraints file: sentences about what was found, how many were looked up, and of how many."""
    pinned = sum("==" in line for line in path.read_text(encoding="utf-8").splitlines())
    command = [sys.executable, "-m", "pip_audit", "-r", str(path), "--no-deps", "--disable-pip", "-f", "json"]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    if not done.stdout.startswith("{"):  # no line to the database at all
        return [], 0, pinned
    asked = [each for each in json.loads(done.stdout)["dependencies"] if "skip_reason" not in each]
    found = [
        f"{each['name']} {each['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for each in asked
        for bug in each["vulns"]
    ]
    return found, len(asked), pinned


def main() -> int:
    """Audit every file and print what was found, and what was not looked up."""
    code = 0
    for path in FILES:
        found, asked, pinned = audit(path)
        print(f"{path.relative_to(ROOT)}: {asked} of {pinned} versions looked up, {len(found)} vulnerabilities")
        print("".join(f"  {line}\n" for line in found), end="")
        code = 1 if found or code == 1 else 3 if asked < pinned else code
    if code == 3:
        print("audit: the database did not answer for all versions: run it where the public index can be reached")
    return code


if __name__ == "__main__":
    sys.exit(main())
