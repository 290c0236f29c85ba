"""The model folder: what is found, what is refused and why."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hf import tiny
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import files, headers, vocabulary
from workbench.hf.found import unreadable


def only(root: Path) -> files.ModelInfo:
    (info,) = files.scan(root)
    return info


def test_an_absent_or_empty_folder_has_no_models(tmp_path: Path) -> None:
    assert files.scan(tmp_path / "absent") == []
    assert files.scan(tmp_path) == []
    assert not files.any_there(tmp_path / "absent")
    assert not files.any_there(tmp_path)


def test_a_nested_folder_is_a_model_with_its_facts(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "org" / "name")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    info = only(tmp_path)
    assert files.any_there(tmp_path)
    assert info.id == "huggingface/org/name"
    assert info.status == "available"
    assert (info.format, info.dtype, info.parameters) == ("safetensors", "float32", 64)
    assert info.context_length == 128
    assert info.chat_template is True
    assert info.size_bytes == (folder / "model.safetensors").stat().st_size
    assert info.details["licence"] == "apache-2.0"
    assert info.details["architecture"] == "LlamaForCausalLM"
    found = files.resolve(tmp_path, "org/name")
    assert (found.folder, found.gguf_file) == (folder, None)


def test_each_gguf_file_is_a_model(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "some" / "a.Q4_1.gguf")
    tiny.write_gguf(tmp_path / "some" / "b.gguf")
    first, second = files.scan(tmp_path)
    assert first.id == "huggingface/some/a.Q4_1.gguf"
    assert second.name == "some/b.gguf"
    assert (first.format, first.quantization, first.parameters) == ("gguf", "Q4_1", 128)
    assert first.context_length == 4096
    assert first.chat_template is False
    found = files.resolve(tmp_path, "some/a.Q4_1.gguf")
    assert (found.folder, found.gguf_file) == (tmp_path / "some", "a.Q4_1.gguf")


def test_shards_belong_to_one_model(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "big")
    info = only(tmp_path)
    assert info.status == "available"
    assert info.parameters == 128
    assert info.size_bytes == sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def sharded(folder: Path) -> Path:
    tiny.write_folder(folder)
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        tiny.write_safetensors(folder / name)
    # Both files hold a tensor of the same name here; the index takes one from each.
    raw = (folder / names[1]).read_bytes().replace(b'"t0"', b'"t1"')
    (folder / names[1]).write_bytes(raw)
    index = {"weight_map": {"t0": names[0], "t1": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_file_that_is_whole_is_taken_in_place_of_shards_as_a_load_takes_it(
    tmp_path: Path,
) -> None:
    """The row named the digest of the shards, and other weights had answered."""
    tiny.write_safetensors(sharded(tmp_path / "m") / "model.safetensors", tensors=5)
    assert only(tmp_path).parameters == 5 * 64
    config = {"transformers_weights": "model.safetensors.index.json"}
    tiny.write_safetensors(tiny.write_folder(tmp_path / "m", **config) / "model.safetensors")
    assert only(tmp_path).parameters == 2 * 64


# -- broken models -------------------------------------------------------------------------------


def lacks_shard(folder: Path) -> None:
    (sharded(folder) / "model-00002-of-00002.safetensors").unlink()


def lacks_index(folder: Path) -> None:
    (sharded(folder) / "model.safetensors.index.json").unlink()


def another_name(folder: Path) -> None:
    (tiny.write_folder(folder) / "model.safetensors").rename(folder / "consolidated.safetensors")


def shard_outside(folder: Path) -> None:
    sharded(folder)
    index = {"weight_map": {"t0": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shards_do_not_fit(folder: Path) -> None:
    sharded(folder)
    index = {"weight_map": {"t7": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_only(folder: Path) -> None:
    tiny.write_folder(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")


def cut_weights(folder: Path) -> None:
    tiny.write_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def wild_header(folder: Path) -> None:
    tiny.write_folder(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def lying_shape(folder: Path) -> None:
    tiny.write_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"[8, 8]", b"[8, 9]"))


def bad_config(folder: Path) -> None:
    (tiny.write_folder(folder) / "config.json").write_text("{broken")


def list_config(folder: Path) -> None:
    (tiny.write_folder(folder) / "config.json").write_text("[" * 5000 + "]" * 5000)


def no_config(folder: Path) -> None:
    (tiny.write_folder(folder) / "config.json").unlink()


def adapter(folder: Path) -> None:
    no_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def custom_code(folder: Path) -> None:
    tiny.write_folder(folder, model_type="mine_own", auto_map={"AutoConfig": "configuration.Mine"})


def no_tokenizer(folder: Path) -> None:
    (tiny.write_folder(folder) / "tokenizer.json").unlink()


def encoder(folder: Path) -> None:
    tiny.write_folder(folder, model_type="bert", architectures=["BertModel"])


def spoilt(name: str, content: object) -> Callable[[Path], None]:
    """A folder, one of whose files holds that."""

    def spoil(folder: Path) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tiny.write_folder(folder) / name).write_text(text)

    return spoil


def configured(**config: object) -> Callable[[Path], object]:
    """A folder whose configuration says that."""
    return lambda folder: tiny.write_folder(folder, **config)


UNLOADABLE = ErrorCode.HF_MODEL_LOAD_FAILED
GPTQ = {"quant_method": "gptq", "bits": 4}
BROKEN: list[tuple[Callable[[Path], object], ErrorCode, list[str]]] = [
    (lacks_shard, UNLOADABLE, ["model-00002-of-00002.safetensors"]),
    (lacks_index, UNLOADABLE, ["model.safetensors.index.json"]),
    (another_name, UNLOADABLE, ["consolidated.safetensors", "rename the file"]),
    (
        configured(transformers_weights="../x.safetensors"),
        ErrorCode.FORBIDDEN_PATH,
        ["../x.safetensors"],
    ),
    (shard_outside, ErrorCode.FORBIDDEN_PATH, ["../other.safetensors"]),
    (shards_do_not_fit, UNLOADABLE, ["'t7'"]),
    (pickle_only, ErrorCode.UNSAFE_FILE, ["pytorch_model.bin", "safetensors"]),
    (cut_weights, UNLOADABLE, ["cut short", "10 bytes"]),
    (wild_header, UNLOADABLE, ["model.safetensors", "header"]),
    (lying_shape, UNLOADABLE, ["shape"]),
    (bad_config, UNLOADABLE, ["config.json"]),
    (list_config, UNLOADABLE, ["config.json"]),
    (no_config, UNLOADABLE, ["config.json"]),
    (adapter, UNLOADABLE, ["LoRA"]),
    (custom_code, ErrorCode.UNSAFE_FILE, ["auto_map", "mine_own"]),
    (no_tokenizer, UNLOADABLE, ["tokenizer.json"]),
    (encoder, UNLOADABLE, ["BertModel"]),
    (spoilt("tokenizer.json", '{"model": {"ty'), UNLOADABLE, ["unreadable tokenizer.json"]),
    (spoilt("tokenizer.json", {}), UNLOADABLE, ["tokenizer.json (it has no model)"]),
    (spoilt("tokenizer_config.json", "[]"), UNLOADABLE, ["tokenizer_config.json", "no table"]),
    (configured(vocab_size=1), UNLOADABLE, ["ids go up to 1", "vocabulary of 1 tokens"]),
    (configured(model_type="nobody"), UNLOADABLE, ["'nobody'", "newer transformers"]),
    (
        configured(model_type="qwen2_vl", architectures=["Qwen2VLForConditionalGeneration"]),
        UNLOADABLE,
        ["Qwen2VLForConditionalGeneration", "for text alone"],
    ),
    (configured(quantization_config={"quant_method": "exl2"}), UNLOADABLE, ["'exl2'"]),
    (
        configured(quantization_config=GPTQ),
        ErrorCode.HF_INVALID_CONFIG,
        ["gptq", "pip install optimum gptqmodel"],
    ),
]


@pytest.mark.parametrize(
    ("spoil", "code", "words"), BROKEN, ids=[b[0].__name__ + b[2][0] for b in BROKEN]
)
def test_a_broken_folder_is_listed_with_reason_and_refused(
    tmp_path: Path, spoil: Callable[[Path], object], code: ErrorCode, words: list[str]
) -> None:
    spoil(tmp_path / "org" / "bad")
    tiny.write_folder(tmp_path / "good")
    good, bad = files.scan(tmp_path)
    assert (good.name, good.status) == ("good", "available")
    assert (bad.name, bad.status) == ("org/bad", "unusable")
    assert bad.problem is not None
    assert all(word in bad.problem for word in words), bad.problem
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(tmp_path, "org/bad")
    assert caught.value.code is code
    assert caught.value.fix
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "cut short"),
        (b"GGUF" + b"\0" * 40, "version 0"),
        (b"NOPE" + b"\0" * 40, "no GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "impossible"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 2**50), "cut short"),
    ],
)
def test_a_file_that_is_no_gguf_is_unusable(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "x.gguf").write_bytes(content)
    info = only(tmp_path)
    assert info.status == "unusable"
    assert info.problem is not None
    assert word in info.problem


def test_every_cut_of_a_gguf_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m" / "x.gguf"
    tiny.write_gguf(path)
    whole = path.stat().st_size
    for cut in range(1, whole):
        tiny.write_gguf(path, cut=cut)
        os.utime(path, ns=(cut, cut))
        with pytest.raises(headers.BadHeader, match=r"cut short|no GGUF"):
            headers.read_gguf(path)


def test_a_gguf_that_transformers_cannot_load_says_why(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "a" / "other.gguf", architecture="nobody")
    tiny.write_gguf(tmp_path / "b" / "mute.gguf", tokens=False)
    tiny.write_gguf(tmp_path / "c" / "odd.gguf")
    (tmp_path / "c" / "tokenizer.json").write_text("<html>")
    tiny.write_gguf(tmp_path / "d" / "whole.gguf", tokens=False)
    (tmp_path / "d" / "tokenizer.json").write_text(json.dumps(tiny.TOKENIZER))
    other, mute, odd, whole = files.scan(tmp_path)
    assert "architecture 'nobody'" in str(other.problem)
    assert "Ollama" in str(other.problem)
    assert "no tokenizer" in str(mute.problem)
    assert "unreadable tokenizer.json" in str(odd.problem)
    assert (whole.status, whole.problem) == ("available", None)


def test_of_a_large_tokenizer_only_the_ends_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_READ_WHOLE", 100)
    path = tiny.write_folder(tmp_path / "m") / "tokenizer.json"
    assert only(tmp_path).status == "available"
    path.write_text(path.read_text()[:-5])
    assert "tokenizer.json (it is cut short" in str(only(tmp_path).problem)
    path.write_text("version https://git-lfs.github.com/spec/v1\n" + "size 17210328" * 10)
    assert "no JSON" in str(only(tmp_path).problem)


def test_tokens_that_were_added_may_lie_beyond_the_vocabulary(tmp_path: Path) -> None:
    """Text models come with their family's tokens for pictures, which no text has."""
    folder = tiny.write_folder(tmp_path / "m", vocab_size=2)
    added = [{"id": 2, "content": "<image>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({**tiny.TOKENIZER, "added_tokens": added}))
    assert only(tmp_path).status == "available"


def test_a_part_of_a_split_gguf_says_how_to_merge(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "m" / "x-00001-of-00003.gguf")
    problem = only(tmp_path).problem
    assert problem is not None
    assert "3 parts" in problem
    assert "merge" in problem


def test_auto_map_of_a_family_that_transformers_has_is_no_obstacle(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "m", auto_map={"AutoConfig": "configuration_llama.Mine"})
    assert only(tmp_path).status == "available"


def test_an_unreadable_folder_does_not_stop_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_folder(tmp_path / "bad")
    tiny.write_folder(tmp_path / "good")
    real = os.scandir

    def scandir(path: os.PathLike[str]) -> object:
        if str(path).endswith("bad"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    bad, good = files.scan(tmp_path)
    assert (bad.status, good.status) == ("unusable", "available")
    assert "Permission denied" in str(bad.problem)


# -- names and paths -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc", "a//b", ".", "", "a/./b", "a\\b", "a\0b", ".hidden",
     "a/.cache/b", "x" * 300, "a/b/c/d/e/f/g", "-rf"],
)  # fmt: skip
def test_a_name_that_leaves_the_folder_is_forbidden(tmp_path: Path, name: str) -> None:
    root = tmp_path / "models"
    tiny.write_folder(tmp_path / "secret")
    tiny.write_folder(root / "a" / "b")
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(root, name)
    assert caught.value.code is ErrorCode.FORBIDDEN_PATH


def test_a_link_out_of_the_folder_is_forbidden_and_listed(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / "link").symlink_to(tiny.write_folder(tmp_path / "secret"))
    assert only(root).status == "unusable"
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(root, "link")
    assert caught.value.code is ErrorCode.FORBIDDEN_PATH


def test_a_weight_file_that_links_out_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder = tiny.write_folder(root / "m")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(root, "m")
    assert caught.value.code is ErrorCode.FORBIDDEN_PATH


def test_a_link_inside_the_folder_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tiny.write_folder(tmp_path / "m"))
    assert {info.status for info in files.scan(tmp_path)} == {"available"}


def test_a_link_loop_ends(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "m")
    (tmp_path / "m" / "self").symlink_to(tmp_path)
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    assert "m" in {info.name for info in files.scan(tmp_path)}


def test_an_unknown_name_lists_what_exists(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "org" / "there")
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(tmp_path, "org/elsewhere")
    assert caught.value.code is ErrorCode.HF_MODEL_NOT_FOUND
    assert "org/there" in caught.value.message


# -- digests and the cache -----------------------------------------------------------------------


def test_the_digest_tells_two_trainings_of_one_architecture_apart(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        tiny.write_safetensors(tiny.write_folder(tmp_path / name) / "model.safetensors", value)
    digests = {info.name: info.digest for info in files.scan(tmp_path)}
    assert digests["a"] == digests["c"]
    assert digests["a"] != digests["b"]


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "m")
    before = only(tmp_path)
    tiny.write_safetensors(folder / "model.safetensors", 9, tensors=2)
    after = only(tmp_path)
    assert (before.parameters, after.parameters) == (64, 128)
    assert before.digest != after.digest


def test_a_second_scan_reads_no_header_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_gguf(tmp_path / "m" / "x.gguf")
    files.scan(tmp_path)
    monkeypatch.setattr(headers, "_parse_gguf", None)
    assert only(tmp_path).status == "available"


def test_files_that_cannot_be_opened_for_want_of_descriptors_have_no_wrong_rights() -> None:
    assert "ulimit -n" in unreadable(OSError(errno.EMFILE, "Too many open files")).fix
    assert "rights" in unreadable(OSError(errno.EACCES, "Permission denied")).fix
