"""Weights in forms that a CPU reads faster than the files' own (imports torch).

All kernels are torch's own. Activations are float32 between the matrix products, so the small steps
there are exact and need no conversions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

_LARGEST_FLOAT16: Final = 65504.0
_MOST_OTHER: Final = 0.05
"""Share of the parameters that may be in modules other than linear layers and embeddings."""
_INT4_GROUP: Final = 32
_PIECE_BYTES: Final = 16 * 2**20
_USUAL_PROMPT: Final = 64
"""Tokens of a pass for which matrices are laid out; others are multiplied in the same order."""


class Unsuitable(Exception):
    """The weights cannot be brought into this form; the text says why."""


class PackedLinear(nn.Module):
    """Weights as float16, unpacked in the kernel: bfloat16's memory, float32's activations.

    Each row of the input is computed by itself. The kernel sums in another order for another number
    of rows, though, so an answer inside a batch may part from the one alone where two tokens are
    as likely to within rounding; ``dtype=float32`` was not seen to.

    A large matrix, which a head is, is packed by pieces of its outputs: packing reads it across its
    rows, and is a quarter quicker where these stay in the processor's cache.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        low, high = weight.aminmax()
        if not bool((low >= -_LARGEST_FLOAT16) & (high <= _LARGEST_FLOAT16)):  # also for NaN
            raise Unsuitable("some weights are too large for float16")
        rows = max(_PIECE_BYTES // (4 * weight.shape[1]), 1)
        self._names: list[str] = []
        for start in range(0, len(weight), rows):
            part = weight[start : start + rows].float().contiguous()
            its_bias = None if bias is None else bias[start : start + rows]
            self._names.append(f"packed_{start}")
            made = torch.ops.quantized.linear_prepack_fp16(part, its_bias)
            setattr(self, self._names[-1], made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (..., inputs), float32."""
        product = torch.ops.quantized.linear_dynamic_fp16
        parts = [product(x, getattr(self, name)) for name in self._names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Int8Linear(nn.Module):
    """Weights as int8 with one scale for each output, activations as they are."""

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("weight", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales[:, 0].to(torch.bfloat16))
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (..., inputs), float32."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        y = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scales).float()
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]


class DynamicInt8Linear(nn.Module):
    """Weights as int8 with one scale for each output, activations rounded to 8 bits as they come.

    Twice as quick as :class:`Int8Linear` where processors multiply integers. The kernel has one
    scale for all activations of a pass, so each row is first brought to the range 0 to 1: no row
    depends on its neighbours, not even by rounding. With ``x = low + width * u`` the product is
    ``width * (weight @ u) + low * sums``, where ``sums`` are those over the inputs of each output.
    """

    sums: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        weight = weight.float()
        scales = (weight.abs().amax(dim=1).clamp_min(1e-12) / 127).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # Tensors of this type are to go; where they have gone the form is refused at its check.
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rounded, None)
        self.register_buffer("sums", rounded.dequantize().sum(dim=1))
        # Without these instructions sums of two products must fit into 16 bits: 7 bits remain.
        self.narrow = not torch.cpu._is_vnni_supported()
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (..., inputs), float32."""
        low, high = x.aminmax(dim=-1, keepdim=True)
        width = (high - low).clamp_min_(1e-12)
        # The kernel raises on NaN; a row that has one becomes NaN by its width.
        rows = (x - low).div_(width).nan_to_num_(0.0)
        y = torch.ops.quantized.linear_dynamic(rows, self.packed, self.narrow)
        y = y.mul_(width).addcmul_(low, self.sums)
        return y if self.bias is None else y.add_(self.bias)  # type: ignore[no-any-return]


class Int4Linear(nn.Module):
    """Weights as 4-bit numbers with a scale and a zero for each group of inputs."""

    packed: torch.Tensor
    scales_and_zeros: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        if inputs % _INT4_GROUP or outputs % 16:
            raise Unsuitable(f"a weight of shape {outputs} x {inputs} does not divide into groups")
        groups = weight.float().reshape(outputs, -1, _INT4_GROUP)
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scales = ((high - low) / 15).clamp_min(1e-9)
        # The kernel computes (q - 8) * scale + zero.
        q = ((groups - low) / scales).round().clamp(0, 15).to(torch.int32)
        zeros = low + 8 * scales
        both = torch.cat([scales, zeros], dim=-1).transpose(0, 1).contiguous()
        flat = q.reshape(outputs, inputs)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(flat, 1))
        self.register_buffer("scales_and_zeros", both.to(torch.bfloat16))
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (..., inputs), float32."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.packed, _INT4_GROUP, self.scales_and_zeros
        ).float()
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]


class PromptWeights:
    """A model's matrices in bfloat16, for passes over prompts.

    Where processors multiply bfloat16, such a pass takes half of its time in the packed form, which
    computes in float32; a step takes twice as long.

    Attributes:
        matrices: the file's, by the names of their modules, until :func:`convert` takes them; the
            head, which sees one token of a prompt, is not among them.
        reading: whether the pass under way is one over prompts.
    """

    def __init__(self, matrices: dict[str, torch.Tensor]) -> None:
        self.matrices = matrices
        self.reading = False

    @classmethod
    def of(cls, model: Any) -> PromptWeights | None:
        """Those of a model as it was loaded; None if it has other types."""
        head = model.get_output_embeddings()
        found = {
            name: module.weight.detach()
            for name, module in model.named_modules()
            if type(module) is nn.Linear and module is not head
        }
        if not found or any(weight.dtype != torch.bfloat16 for weight in found.values()):
            return None
        return cls(found)


def laid_out(matrix: torch.Tensor) -> torch.Tensor:
    """A copy of a bfloat16 matrix in the order in which oneDNN multiplies it.

    It would be brought into it at every pass otherwise, which costs as much as 16 tokens.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return matrix.clone()
    return torch.ops.mkldnn._reorder_linear_weight(matrix, _USUAL_PROMPT)  # type: ignore[no-any-return]


def product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``x`` of shape (..., inputs) times a matrix of :func:`laid_out`, both bfloat16."""
    if not matrix.is_mkldnn:
        return functional.linear(x, matrix)
    return torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")  # type: ignore[no-any-return]


class PromptLinear(nn.Module):
    """One matrix in two forms: packed for steps, in bfloat16 for passes over prompts."""

    def __init__(
        self, step: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None, all_: PromptWeights
    ) -> None:
        super().__init__()
        self.step, self.bias = step, bias
        self._weight, self._all = laid_out(weight), all_

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (..., inputs), float32."""
        if not self._all.reading:
            return self.step(x)  # type: ignore[no-any-return]
        y = product(x.to(torch.bfloat16), self._weight).float()
        return y if self.bias is None else y.add_(self.bias)


class WideEmbedding(nn.Module):
    """An embedding that stays in its stored type and gives float32.

    Its weight is a copy: a view of it would keep the whole file in memory.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``ids`` of any shape; the result has one more dimension."""
        return functional.embedding(ids, self.weight).float()


Form = Callable[[torch.Tensor, torch.Tensor | None], nn.Module]
"""Made of a matrix in the type of its file and a bias in float32."""
FORMS: Final[dict[str, Form]] = {
    "packed": PackedLinear,
    "int8": Int8Linear,
    "int8_dynamic": DynamicInt8Linear,
    "int4": Int4Linear,
}
MAKINGS: Final[dict[str, tuple[str, ...]]] = {
    "packed": ("packed",),
    "int8": ("int8_dynamic", "int8"),
    "int4": ("int4",),
}
"""What may be made of a model that is asked for in a form: the first that passes its check."""
_DOWN: Final = {"int8_dynamic": "int8"}
"""Another form for the matrices that come after a layer's activation function: few of their inputs
are large and the others matter, which rounding to one scale does not keep."""


def convert(model: Any, form: str, threads: int = 1, prompts: PromptWeights | None = None) -> None:
    """Bring all matrices of a model into one of :data:`FORMS`, in place.

    Args:
        model: of transformers, on the CPU.
        form: which.
        threads: how many matrices to work on at once (the kernels that do it use one each).
        prompts: matrices to keep beside that form; taken from it.

    Raises:
        Unsuitable: if this model's weights do not take that form; the model is half converted
            then and must be loaded again.
    """
    linears: list[tuple[str, nn.Linear]] = []
    embeddings: list[tuple[str, nn.Embedding]] = []
    other = 0
    inner = getattr(model.config.get_text_config(decoder=True), "intermediate_size", None)
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            linears.append((name, module))
        elif type(module) is nn.Embedding:
            embeddings.append((name, module))
        else:
            own = module.parameters(recurse=False)
            other += sum(p.numel() for p in own if p.is_floating_point())
    if other > _MOST_OTHER * model.num_parameters():
        raise Unsuitable("much of the model is in modules of its own kind")

    def replace(named: tuple[str, nn.Linear]) -> None:
        name, linear = named
        own = _DOWN.get(form, form) if linear.in_features == inner else form
        with torch.inference_mode():
            made = _linear(linear, FORMS[own])
            if prompts is not None and name in prompts.matrices:
                bias = None if linear.bias is None else linear.bias.detach().float()
                made = PromptLinear(made, prompts.matrices[name], bias, prompts)
            _put(model, name, made)

    # The largest first, or one thread would still be at it when the others are done.
    linears.sort(key=lambda named: -named[1].weight.numel())
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(replace, linears))
    for name, embedding in embeddings:
        _put(model, name, WideEmbedding(embedding))
    if prompts is not None:
        prompts.matrices.clear()  # the file's own: it is not needed any more
    for module in model.modules():
        if not isinstance(module, WideEmbedding):
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    # Copied even if it is float32 already: a view keeps the whole file in memory.
                    parameter.data = parameter.data.to(torch.float32, copy=True)


def forget(model: Any) -> None:
    """Let go of the matrices that were kept for prompts."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PromptLinear):
            _put(model, name, module.step)


def _put(model: Any, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _linear(linear: nn.Linear, form: Form) -> nn.Module:
    bias = None if linear.bias is None else linear.bias.detach().float()
    return form(linear.weight.detach(), bias)
