"""One-off conversions of a GGUF file, run as ``python -m workbench.hf.convert``.

A process of its own, because it needs torch and transformers, which the parent never imports.
It writes into folders that exist already; naming and moving them is the caller's part.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workbench.hf import matching


def save_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer that is inside a GGUF file as ``tokenizer.json`` and its companions.

    Rebuilding it from the GGUF takes seconds at every load; reading these files does not.

    Args:
        source: the GGUF file.
        target: the folder to write to.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name, local_files_only=True
    )
    # Both describe this machine's run, not the tokenizer, and would be written to the file.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(str(target))


def save_weights(source: Path, target: Path) -> None:
    """Unpack a GGUF file's weights to bf16 and write them as a safetensors model folder.

    Args:
        source: the GGUF file.
        target: the folder to write to.

    Raises:
        WorkbenchError: ``HF_MODEL_LOAD_FAILED`` if the file lacks tensors of its model.
    """
    import torch
    from transformers import GgufConfig

    model, report = matching.open_model(
        str(source.parent),
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    matching.check(source.name, report)
    # The weights are dense from here on; with this entry they would be read as GGUF blocks again.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = ""
    model.save_pretrained(str(target))


def main(arguments: list[str] | None = None) -> int:
    """Convert as asked on the command line; 0 when every wanted part was written."""
    parser = argparse.ArgumentParser(prog="workbench.hf.convert", description=main.__doc__)
    parser.add_argument("source", type=Path, help="the GGUF file")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", type=Path, metavar="FOLDER")
    wanted = parser.parse_args(arguments)
    if wanted.tokenizer:
        save_tokenizer(wanted.source, wanted.tokenizer)
    if wanted.weights:
        save_weights(wanted.source, wanted.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
