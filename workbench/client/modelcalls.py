"""Models by plain calls: which there are, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.client.following import Following
from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.types import ModelInfo

if TYPE_CHECKING:
    import pandas as pd

    from workbench.rotation import Overview


class ModelCalls(Following):
    """The part of :class:`workbench.client.Workbench` that is about models."""

    def models(self, *, problems: bool = False) -> pd.DataFrame:
        """All models of all providers as a DataFrame (sizes in bytes).

        Args:
            problems: True adds a row for each provider that could not be asked.
        """
        import pandas as pd

        models, troubles = self.list_models()
        rows = [model.to_dict() for model in models]
        if problems:
            rows += [{"provider": name, "problem": str(e)} for name, e in troubles.items()]
        columns = [
            "id",
            "provider",
            "status",
            "size_bytes",
            "memory_bytes",
            "format",
            "dtype",
            "quantization",
            "context_length",
            "problem",
        ]
        return pd.DataFrame(rows, columns=columns)

    def list_models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        """All models as values, and by provider what kept it from telling its own."""
        return self._transport.models()

    def show(self, model: str) -> ModelInfo:
        """All that is known of one model."""
        return self._transport.show(model)

    def load(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory.

        Returns:
            ``id``, ``duration_s``, ``was_resident`` (it was in memory already), ``memory_bytes``
            (measured; None if unknown), ``evicted`` (models that left for it).
        """
        return self._transport.load(model)

    def unload(self, model: str) -> Mapping[str, Any]:
        """Take a model out of memory; a pin on it ends.

        Returns:
            ``id``, ``duration_s``, ``was_resident``, ``expected_bytes`` (what its processes held
            for themselves) and ``recovered_bytes`` (what of it came back); None if unknown.
        """
        return self._transport.unload(model)

    def pin(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory and keep it there: it is neither evicted nor does it expire.

        Returns:
            ``id``, ``evicted``.
        """
        return self._transport.pin(model)

    def unpin(self, model: str) -> Mapping[str, Any]:
        """Let a model be evicted again.

        Returns:
            ``id``, ``was_pinned``.
        """
        return self._transport.unpin(model)

    def queue(self) -> Overview:
        """Who is in memory with how many bytes, who waits and how long, who would leave next."""
        return self._transport.queue()

    # -- on disk

    def download(
        self,
        model: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Bring a model from the hub to disk; returns when it is there and checked.

        Interrupting stops the download; what has come is kept, and the next call resumes.

        Args:
            model: ``org/name``, or ``org/name/file.gguf`` for one GGUF file.
            revision: branch, tag or commit; None for main.
            gguf_file: the GGUF file, if ``model`` does not name it.
            on_progress: receives the job several times a second.

        Returns:
            ``id``, ``revision`` (the commit), ``size_bytes``, ``downloaded_bytes``, ``path``.

        Raises:
            WorkbenchError: why it failed, with the fix.
        """
        job = self._transport.download(model, revision, gguf_file)
        return self._follow(job, on_progress)

    def verify(
        self, model: str | None = None, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Read every byte of a Hugging Face model, or of all; open tokenizers, compare tensors.

        Returns:
            ``ok``, and ``models``: per model ``id, ok, checked, checked_bytes, unhashed,
            tokenizer, problems, fix``.
        """
        return self._follow(self._transport.verify(model), on_progress)

    def delete(self, model: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Delete a Hugging Face model from disk.

        Args:
            model: model id or a bare name.
            dry_run: True only tells what would go.

        Returns:
            ``id``, ``size_bytes`` (what it takes), ``freed_bytes`` (measured; not if ``dry_run``),
            ``location``, ``also`` (models that go with it), ``orphans`` (LoRA adapters that lose
            their base).

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while it is answering or being downloaded.
        """
        return self._transport.delete(model, dry_run)

    def job(self, job_id: str) -> Job:
        """A download or check as it is now."""
        return self._transport.job(job_id)
