"""Opening models' tokenizers in a process of its own, ``python -m workbench.hf.proving``.

Of its own, because transformers is never imported here, and because what a broken file does to the
library that reads it is not known before. It reads a JSON line per model and answers with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from workbench.errors import WorkbenchError
from workbench.hf import child, vocabulary
from workbench.hf.found import ModelFile
from workbench.hf.headers import read_gguf
from workbench.hf.verification import Verdict, stopped
from workbench.jobs import Reporter
from workbench.settings import Settings

_POLL_S: Final = 0.1


def prove(
    settings: Settings, verdicts: Sequence[Verdict], report: Reporter, cancelled: threading.Event
) -> None:
    """Open the tokenizers of all models whose files are in order; blocking.

    What is wrong is added to a model's problems.

    Args:
        settings: how long a tokenizer may take (``HF_MODEL_TIMEOUT_MS``).
        verdicts: of :func:`workbench.hf.verification.verify`.
        report: told which model is at work.
        cancelled: stops it soon.

    Raises:
        WorkbenchError: ``CANCELLED``.
    """
    reader = _Reader(settings.hf_model_timeout_ms / 1000, cancelled)
    with contextlib.closing(reader):
        for verdict in verdicts:
            if not verdict.problems:
                report(f"opening the tokenizer of {verdict.model.name}")
                _prove(verdict, reader)


def _prove(verdict: Verdict, reader: _Reader) -> None:
    answer = reader.ask(_question(verdict.model))
    verdict.opened = answer.get("problem") is None
    if not verdict.opened:
        verdict.problems.append(str(answer["problem"]))
        verdict.fix = str(answer["fix"])


def _question(model: ModelFile) -> dict[str, Any]:
    size = None
    if model.gguf_file is not None:
        size = read_gguf(model.folder / model.gguf_file).vocabulary
    return {"folder": str(model.folder.resolve()), "gguf_file": model.gguf_file, "size": size}


class _Reader:
    """The process, started for the first question and again after one that ended it.

    Args:
        limit_s: the longest wait for an answer, the start included.
        cancelled: ends a wait.
    """

    def __init__(self, limit_s: float, cancelled: threading.Event) -> None:
        self._limit_s = limit_s
        self._cancelled = cancelled
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer: ``problem`` and ``fix``, or nothing.

        Raises:
            WorkbenchError: ``CANCELLED``.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=process.stdin, flush=True)
        deadline = time.monotonic() + self._limit_s
        while not select.select([process.stdout], [], [], _POLL_S)[0]:
            if self._cancelled.is_set():
                raise stopped()
            if time.monotonic() > deadline:
                self.close()
                return _odd(f"was not open after {self._limit_s:g} s")
        line = process.stdout.readline()
        if not line:
            self.close()
            return _odd("ended the process that read it")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            child.command("workbench.hf.proving"),
            env=child.environment(HF_HUB_OFFLINE="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process


def _odd(what: str) -> dict[str, Any]:
    return {
        "problem": f"Its tokenizer {what}.",
        "fix": "Download the tokenizer's files again; then see that memory is free.",
    }


# -- in the process --------------------------------------------------------------------------------


def _answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        question = json.loads(line)
        try:
            vocabulary.prove(Path(question["folder"]), question["gguf_file"], size=question["size"])
        except WorkbenchError as error:
            yield {"problem": error.message, "fix": error.fix}
        except Exception as error:  # of the configuration, which is transformers' to read
            yield {
                "problem": f"Its configuration cannot be read: {type(error).__name__}: {error}"[
                    :500
                ],
                "fix": "Download config.json again.",
            }
        else:
            yield {}


def main() -> int:
    """Answer until there are no more questions."""
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for answer in _answers(sys.stdin):
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
