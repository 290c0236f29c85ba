"""Random models small enough to build and run in milliseconds, with tokenizers of several kinds.

Their answers are noise, which is what the machinery needs: byte tokens that form no character,
special tokens in the middle, no natural end.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "The capital of France is Paris. It lies on the Seine, doesn't it?",
    "Grüße aus Köln! Ça va? Übermorgen gibt's Bäckereiöffnungszeiten.",
    "日本語の文章。你好，世界！ привет мир, שלום עולם مرحبا",
    "emoji: 👩‍🚀🚀🇫🇷 naïve café — “quoted” … 1,234.56 ≠ 7",
    "def f(x):\n    return x ** 2  # square\n\tif x .y: pass",
] * 4
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTEXT = 2048


def byte_level() -> Tokenizer:
    """Like GPT-2, Llama 3, Qwen and SmolLM: merges over bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Like Llama 2, Mistral and Gemma: pieces with a space mark, bytes for the rest."""
    letters = sorted(set("".join(CORPUS)) - set("👩🚀日本語") | {"▁"})
    vocab = {"<unk>": 0, "<|end|>": 1}
    for piece in [f"<0x{n:02X}>" for n in range(256)] + letters:
        vocab.setdefault(piece, len(vocab))
    tokenizer = Tokenizer(
        models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<|end|>"])
    return tokenizer


def cleaned_up() -> Tokenizer:
    """A tokenizer whose text transformers cleans up (spaces before punctuation)."""
    pieces = ["<unk>", "<|end|>", "▁", *"abcdefghijklmnopqrstuvwxyz.,?!'nt", "▁n", "▁'", "▁the"]
    vocab = [(piece, -float(n)) for n, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def wrapped(tokenizer: Tokenizer, **changes: Any) -> Any:
    """The tokenizer as transformers' class."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **changes)


def save_model(
    folder: Path,
    *,
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    end_token: bool = False,
    broken_numbers: bool = False,
    layers: int = 2,
    hidden: int = 32,
    context: int = CONTEXT,
    shards: bool = False,
) -> Path:
    """Write a random Llama to ``folder``.

    Args:
        folder: where to.
        seed: of the weights.
        chat_template: None for a model without one.
        end_token: False for a model that never ends by itself.
        broken_numbers: True for one that computes NaN.
        layers: depth.
        hidden: width; with 384 and 8 layers it holds about 50 MB.
        context: longest prompt and answer, in tokens.
        shards: True for weights in several files.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = wrapped(
        byte_level(), chat_template=chat_template, **({"eos_token": "<|end|>"} if end_token else {})
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=0 if end_token else None,
        pad_token_id=None,
        # Wide enough for answers that vary, or a random model repeats one token for ever.
        initializer_range=16 / hidden,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    if broken_numbers:
        model.lm_head.weight.data.fill_(float("nan"))
    model.save_pretrained(folder, **({"max_shard_size": "60KB"} if shards else {}))
    tokenizer.save_pretrained(folder)
    return folder


# -- files without torch ---------------------------------------------------------------------------


_LAYER = "model.layers.0."
WHOLE = {
    **{f"{_LAYER}self_attn.{name}_proj.weight": [8, 8] for name in "qkvo"},
    **{f"{_LAYER}mlp.{name}_proj.weight": [8, 8] for name in ("gate", "up", "down")},
    **{f"{_LAYER}{name}_layernorm.weight": [8] for name in ("input", "post_attention")},
    **{f"{name}.weight": [2, 8] for name in ("model.embed_tokens", "lm_head")},
    "model.norm.weight": [8],
}
"""All that the model of :func:`write_folder` needs."""


def write_safetensors(
    path: Path, value: int = 0, *, tensors: int = 1, named: Mapping[str, list[int]] | None = None
) -> None:
    """A well-formed safetensors file with float32 tensors full of one byte.

    Args:
        path: of the file.
        value: the byte.
        tensors: how many of 8 x 8, which belong to no model.
        named: more of them, with their shapes.
    """
    header, end = {}, 0
    for name, shape in {**{f"t{n}": [8, 8] for n in range(tensors)}, **(named or {})}.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes([value]) * end)


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {"<unk>": 0, "a": 1}, "merges": [], "unk_token": "<unk>"},
}
"""The smallest that can be opened."""


def write_folder(folder: Path, **config: Any) -> Path:
    """A folder that looks like a whole model to a scan; only its tokenizer can be loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 128,
        # Or a load would make a model of the default size before it sees what the files lack.
        **dict.fromkeys(("hidden_size", "intermediate_size"), 8),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1),
        "vocab_size": 2,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    write_safetensors(folder / "model.safetensors")
    return folder


def write_gguf(
    path: Path, *, version: int = 3, cut: int = 0, architecture: str = "llama", tokens: bool = True
) -> None:
    """A small well-formed GGUF with one Q4_1 tensor; ``cut`` bytes short."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text(architecture),
        text("general.file_type") + struct.pack("<II", 4, 3),
        text(f"{architecture}.context_length") + struct.pack("<II", 4, 4096),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    ]
    entries = entries if tokens else entries[:-1]
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 4, 3, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(entries)) + b"".join(entries) + tensor
    head += b"\0" * (-len(head) % 32)
    whole = head + bytes(4 * 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole[: len(whole) - cut])


def save_adapter(folder: Path, base: Path, base_name: str, seed: int = 5) -> Path:
    """Write a random LoRA adapter for a model that :func:`save_model` wrote.

    Args:
        folder: where to.
        base: folder of the base.
        base_name: what the adapter calls its base.
        seed: of its weights.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:  # B begins as zeros, which would change nothing
            parameter.data = torch.randn_like(parameter)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.save_pretrained(folder)
    return folder


QWEN_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.items() | list }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What of Qwen's template matters here; arguments of calls must come as values."""


def save_caller(folder: Path, answer: list[str]) -> Path:
    """Write a Qwen model that always says the same, in Qwen's form for calling functions.

    Args:
        folder: where to.
        answer: the pieces of what it says, all different; each becomes one token.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = wrapped(byte_level(), chat_template=QWEN_TEMPLATE, eos_token="<|end|>")
    begin = "<|im_start|>assistant\n"
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (begin, *answer)])
    size = -(-len(tokenizer) // 4) * 4
    config = Qwen2Config(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    chain = tokenizer.convert_tokens_to_ids([begin, *answer, "<|end|>"])
    with torch.no_grad():
        # Every token is a direction of its own that attention and MLP leave as it is, and the head
        # turns it into the token that follows.
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise(chain):
            model.lm_head.weight[after, before] = 50.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
