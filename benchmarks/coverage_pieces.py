"""Lines and branches that the whole suite runs, measured in pieces: what ``make coverage`` does.

    python -m benchmarks.coverage_pieces [tests/store tests/test_cli.py ...] [--minutes 9]

The suite takes an hour under measurement. Six files of tests are a piece with data of its own; one
that is done is not done again as long as no code and no test changes, so this may be ended at any
time and begun again. One whose tests failed counts, and is done again the next time. The table is
of the pieces that there are; which are missing is said.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import coverage_table

ROOT: Final = Path(__file__).parent.parent
OUT: Final = ROOT / "benchmarks" / "out" / "coverage"
FILES: Final = 6
"""Of a piece."""
PASSED: Final = "passed"
FAILED: Final = "failed"
ENDED: Final = {0: PASSED, 1: FAILED}
"""By pytest's exit code, of a run that came to its end."""


@dataclass(frozen=True)
class Piece:
    """Some files of one folder of tests."""

    name: str
    """As ``tests-store-2``."""
    files: tuple[str, ...]


def pieces(root: Path, wanted: Sequence[str] = ("tests",)) -> list[Piece]:
    """All pieces with a file that is wanted, or that lies in a wanted folder."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        by_folder[path.parent].append(path.relative_to(root))
    found = []
    for folder, files in by_folder.items():
        slug = "-".join(folder.relative_to(root).parts)
        for begin in range(0, len(files), FILES):
            few = files[begin : begin + FILES]
            if any(path.is_relative_to(one) for path in few for one in wanted):
                name = f"{slug}-{begin // FILES + 1}"
                found.append(Piece(name, tuple(path.as_posix() for path in few)))
    return found


def state(root: Path) -> str:
    """Of the code and its tests: data of another state is worth nothing."""
    digest = hashlib.sha256((root / "pyproject.toml").read_bytes())
    for folder in ("workbench", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Measurement:
    """The pieces of one state of the code, each in a folder of its own.

    Args:
        out: for these folders.
        of: the state.
        run: measures files of tests into a file of data, and returns pytest's exit code.
    """

    out: Path
    of: str
    run: Callable[[Sequence[str], Path], int]

    def how(self, piece: Piece) -> str | None:
        """How its run ended; None: it was not done, or with other code."""
        try:
            note = json.loads((self.folder(piece) / "done.json").read_text())
        except FileNotFoundError:
            return None
        return str(note["how"]) if note["of"] == self.of else None

    def folder(self, piece: Piece) -> Path:
        """Where its data are."""
        return self.out / piece.name

    def take(self, piece: Piece) -> str:
        """Do one piece; returns how its run ended.

        Raises:
            RuntimeError: it did not come to its end, or measured nothing.
        """
        folder = self.folder(piece)
        shutil.rmtree(folder, ignore_errors=True)  # also what a run that was cut short has left
        folder.mkdir(parents=True)
        code = self.run(piece.files, folder / "data")
        if not any(folder.glob("data*")):
            raise RuntimeError(f"{piece.name} measured nothing: is coverage installed?")
        if code not in ENDED:
            raise RuntimeError(
                f"{piece.name} did not come to its end: pytest's exit code is {code}"
            )
        (folder / "done.json").write_text(json.dumps({"of": self.of, "how": ENDED[code]}))
        return ENDED[code]

    def go_on(self, chosen: Sequence[Piece], until_s: float) -> None:
        """Do what is not done yet, or failed, and say so; none is begun after a time."""
        for number, piece in enumerate(chosen, start=1):
            if self.how(piece) == PASSED:
                continue
            if time.monotonic() >= until_s:
                return
            began = time.monotonic()
            how = self.take(piece)
            took_s = time.monotonic() - began
            print(f"{number} of {len(chosen)}: {piece.name} {how}, {took_s:.0f} s", flush=True)


def measured(files: Sequence[str], data: Path) -> int:
    """Run pytest under coverage.py, with all that it starts; returns its exit code."""
    command = [sys.executable, "-m", "coverage", "run", "--data-file", str(data)]
    pytest = ["-m", "pytest", "-q", "--no-header", "--tb=short"]
    told = data.with_name("told.txt")
    with told.open("w") as file:
        return subprocess.run([*command, *pytest, *files], cwd=ROOT, stdout=file).returncode


def told(data: Sequence[Path]) -> None:
    """The table of these folders of data together."""
    whole, report = OUT / "data", OUT / "report.json"
    coverage = [sys.executable, "-m", "coverage"]
    at = ["--data-file", str(whole)]
    combine = [*coverage, "combine", "-q", "--keep", *at, *map(str, data)]
    subprocess.run(combine, cwd=ROOT, check=True)
    subprocess.run([*coverage, "json", "-q", *at, "-o", str(report)], cwd=ROOT, check=True)
    coverage_table.main([str(report)])


def main() -> int:
    """The table, and what it is not of; 1 if a piece is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tests", nargs="*", default=["tests"], help="files or folders")
    parser.add_argument("--minutes", type=float, default=1e9, help="no piece is begun after these")
    asked = parser.parse_args()
    chosen = pieces(ROOT, asked.tests)
    measurement = Measurement(OUT / "pieces", state(ROOT), measured)
    measurement.go_on(chosen, time.monotonic() + 60 * asked.minutes)
    ended = {piece: measurement.how(piece) for piece in chosen}
    if there := [measurement.folder(piece) for piece, how in ended.items() if how]:
        told(there)
    for how, what in ((FAILED, "failed (told.txt of each says why)"), (None, "not done yet")):
        if names := [piece.name for piece in chosen if ended[piece] == how]:
            print(f"\n{len(names)} of {len(chosen)} pieces {what}: {', '.join(names)}")
    return int(any(how != PASSED for how in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
