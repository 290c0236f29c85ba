"""Asking the libraries of a load about models: ``python -m workbench.hf.proving``.

Their tokenizers are opened, their tensors compared with those of the architecture. In a process of
its own, because transformers is never imported here, and because what a broken file does to the
library that reads it is not known before. It reads a JSON line per question and answers with one.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workbench.errors import WorkbenchError
from workbench.hf import child, completeness, matching, vocabulary
from workbench.hf.digest import state_of
from workbench.hf.files import model_files
from workbench.hf.found import ModelFile, Unusable
from workbench.hf.headers import read_gguf
from workbench.hf.verification import CheckedModel, stopped
from workbench.jobs import Reporter
from workbench.settings import Settings

_POLL_S: Final = 0.1


def prove(
    settings: Settings,
    results: Sequence[CheckedModel],
    report: Reporter,
    cancelled: threading.Event,
) -> None:
    """Open the tokenizers of all models whose files are in order, compare their tensors; blocking.

    What is wrong is added to a model's problems.

    Args:
        settings: the model folder; how long one question may take (``HF_MODEL_TIMEOUT_MS``).
        results: of :func:`workbench.hf.verification.verify`.
        report: told which model is at work.
        cancelled: stops it soon.

    Raises:
        WorkbenchError: ``CANCELLED``.
    """
    with contextlib.closing(_Reader(settings, cancelled)) as reader:
        for result in results:
            if not result.problems:
                report(f"opening the tokenizer of {result.model.name}")
                _open(result, reader)
        for result in results:
            if not result.problems and completeness.can_be_asked(result.model):
                report(f"comparing the tensors of {result.model.name}")
                misfit = _compare(settings.hf_model_path, result.model, reader)
                if misfit is not None:
                    result.problems.append(f"It {misfit.problem}.")
                    result.fix = misfit.fix


def compare_new(settings: Settings, report: Reporter, cancelled: threading.Event) -> None:
    """Compare the tensors of models of which that is not known yet; blocking.

    Args:
        settings: as for :func:`prove`, and where models are.
        report: told which model is at work.
        cancelled: stops it soon.

    Raises:
        WorkbenchError: ``CANCELLED``.
    """
    root = settings.hf_model_path
    with contextlib.closing(_Reader(settings, cancelled)) as reader:
        for model in model_files(root, settings.hub_cache):
            if completeness.can_be_asked(model) and not completeness.is_known(root, model):
                report(f"comparing the tensors of {model.name}")
                _compare(root, model, reader)


def _open(result: CheckedModel, reader: _Reader) -> None:
    try:
        answer = reader.ask(_about_tokenizer(result.model))
    except _NoAnswer as reason:
        answer = {
            "problem": f"Its tokenizer {reason}.",
            "fix": "Download the tokenizer's files again; then see that memory is free.",
        }
    result.opened = answer.get("problem") is None
    if not result.opened:
        result.problems.append(str(answer["problem"]))
        result.fix = str(answer["fix"])


def _about_tokenizer(model: ModelFile) -> dict[str, Any]:
    size = None
    if model.gguf_file is not None:
        size = read_gguf(model.folder / model.gguf_file).vocabulary
    folder = str(model.folder.resolve())
    return {"ask": "tokenizer", "folder": folder, "gguf_file": model.gguf_file, "size": size}


def _compare(root: Path, model: ModelFile, reader: _Reader) -> Unusable | None:
    """What is wrong with a model's tensors, which is kept; None also if that cannot be told."""
    state = state_of(model)
    try:
        answer = reader.ask({"ask": "tensors", "folder": str(model.folder.resolve())})
    except _NoAnswer:
        return None  # on a machine with more time or memory there may be one
    misfit = Unusable(answer["problem"], answer["fix"]) if answer else None
    completeness.keep(root, state, misfit)
    return misfit


class _NoAnswer(Exception):
    """The process ended or took too long; the text says so, as the end of a sentence."""


class _Reader:
    """The process, started for the first question and again after one that ended it.

    Args:
        settings: the longest wait for an answer, the start included (``HF_MODEL_TIMEOUT_MS``).
        cancelled: ends a wait.
    """

    def __init__(self, settings: Settings, cancelled: threading.Event) -> None:
        self._limit_s = settings.hf_model_timeout_ms / 1000
        self._cancelled = cancelled
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer: ``problem`` and ``fix``, or nothing.

        Raises:
            _NoAnswer: there is none.
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
                raise _NoAnswer(f"was not open after {self._limit_s:g} s")
        line = process.stdout.readline()
        if not line:
            self.close()
            raise _NoAnswer("ended the process that read it")
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


# -- in the process --------------------------------------------------------------------------------


def _answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        question = json.loads(line)
        ask = _about_tensors if question["ask"] == "tensors" else _opened
        yield ask(question)


def _opened(question: Mapping[str, Any]) -> dict[str, Any]:
    try:
        vocabulary.prove(Path(question["folder"]), question["gguf_file"], size=question["size"])
    except WorkbenchError as error:
        return {"problem": error.message, "fix": error.fix}
    except Exception as error:  # of the configuration, which is transformers' to read
        cause = f"{type(error).__name__}: {error}"[:500]
        return {
            "problem": f"Its configuration cannot be read: {cause}",
            "fix": "Download config.json again.",
        }
    return {}


def _about_tensors(question: Mapping[str, Any]) -> dict[str, Any]:
    try:
        misfit = matching.compare(Path(question["folder"]))
    except Exception:  # whatever transformers raises; a load says it better
        return {}
    return {} if misfit is None else {"problem": misfit.problem, "fix": misfit.fix}


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
