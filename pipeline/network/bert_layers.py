"""Fused BERT layers for short rows on a CPU: manual forward and backward passes, LoRA adapters merged into the weights.

For rows of a dozen pieces the library spends more time on casts, dropout masks, attention kernels made for long rows and
separate adapter products than on its matrix products. These layers compute little but the products. A test holds values and
gradients to those of `transformers` and `peft` within 1e-5 in fp32.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.network.dropout import PooledDropout

QKV = ("query", "key", "value")
PROJECTIONS = (*QKV, "out", "up", "down")
MASKED_SCORE = -1e4  # exp of it is 0 in every precision


class Adapter(NamedTuple):
    """y += scaling · (x Aᵀ) Bᵀ (Hu et al. 2021)."""

    a: nn.Parameter  # (rank, in)
    b: nn.Parameter  # (out, rank)
    scaling: float


class Projection(NamedTuple):
    """A frozen linear layer and its optional adapter."""

    linear: nn.Linear
    adapter: Adapter | None

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Return the projection of one of the encoder's modules."""
        if not isinstance(module, LoraLinear):
            return cls(module, None)  # type: ignore[arg-type]
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        return cls(module.get_base_layer(), Adapter(a, b, module.scaling["default"]))


class BatchShape(NamedTuple):
    """The shape of a micro-batch: rows, pieces of the longest row, heads and head width."""

    rows: int
    length: int
    heads: int
    width: int

    def split(self, flat: Tensor) -> Tensor:
        """(rows · length, n · heads · width) → (n, rows · heads, length, width), contiguous."""
        by_head = flat.view(self.rows, self.length, -1, self.heads, self.width).permute(2, 0, 3, 1, 4)
        return by_head.contiguous().view(-1, self.rows * self.heads, self.length, self.width)

    def join(self, heads: Tensor) -> Tensor:
        """Invert `split`."""
        by_row = heads.view(-1, self.rows, self.heads, self.length, self.width).permute(1, 3, 0, 2, 4)
        return by_row.reshape(self.rows * self.length, -1)


class Activations(NamedTuple):
    """Activations that a layer's forward pass saves for its backward pass; masks are None without dropout."""

    x: Tensor  # (P, W) input of query, key, value
    heads: Tensor  # (3, rows · heads, T, width)
    probabilities: Tensor  # (rows · heads, T, T)
    dropped: Tensor  # the probabilities after dropout, unscaled
    context: Tensor  # (P, W)
    norm_1: tuple[Tensor, Tensor, Tensor]  # input of the layer norm, its mean, 1 / its deviation
    middle: Tensor  # (P, W) input of up
    up: Tensor  # (P, 4W) before GELU
    activated: Tensor  # (P, 4W) after GELU
    norm_2: tuple[Tensor, Tensor, Tensor]
    masks: tuple[Tensor | None, Tensor | None, Tensor | None]  # of probabilities, out, down


class FusedLayer:
    """One encoder layer: its projections by name, and their merged weights in the compute precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        attention, qkv = module.attention, module.attention.self
        modules = (qkv.query, qkv.key, qkv.value, attention.output.dense, module.intermediate.dense, module.output.dense)
        self.projections = dict(zip(PROJECTIONS, map(Projection.of, modules), strict=True))
        self.norms = (attention.output.LayerNorm, module.output.LayerNorm)
        self.dtype = dtype
        self.weights = self._frozen_weights()
        biases = {name: projection.linear.bias.detach().to(dtype) for name, projection in self.projections.items()}
        self.biases = biases | {"qkv": torch.cat([biases[name] for name in QKV])}
        self._lock = Lock()
        self._merged_versions: tuple[int, ...] | None = None  # of the adapters' parameters
        self.refresh()

    def adapters(self) -> list[nn.Parameter]:
        """Return the trained adapter parameters, in the order of the gradients from `backward`."""
        return [p for name in PROJECTIONS for p in self._trained(name)]

    def refresh(self) -> None:
        """Merge the adapters again if they have changed; thread-safe."""
        adapters = {name: p.adapter for name, p in self.projections.items() if p.adapter is not None}
        versions = tuple(p._version for adapter in adapters.values() for p in adapter[:2])
        with self._lock, torch.no_grad():
            if versions == self._merged_versions:
                return
            for name, adapter in adapters.items():
                a, b = adapter.a.to(self.dtype), adapter.b.to(self.dtype)
                weight = self.projections[name].linear.weight.to(self.dtype)
                torch.addmm(weight, b, a, alpha=adapter.scaling, out=self.weights[name])
            self._merged_versions = versions

    def _frozen_weights(self) -> dict[str, Tensor]:
        """Return weights by name, and `qkv` with query, key and value as one matrix; copies only weights with an adapter."""
        weights = {name: projection.linear.weight.detach().to(self.dtype) for name, projection in self.projections.items()}
        qkv = torch.cat([weights[name] for name in QKV])
        views = dict(zip(QKV, qkv.chunk(3), strict=True))
        merged = {name: weights[name].clone() for name in ("out", "up", "down") if self.projections[name].adapter is not None}
        return {**weights, "qkv": qkv, **views, **merged}

    def _trained(self, name: str) -> list[nn.Parameter]:
        adapter = self.projections[name].adapter
        return [p for p in adapter[:2] if p.requires_grad] if adapter is not None else []

    def forward(self, x: Tensor, shape: BatchShape, bias: Tensor | None, dropout: PooledDropout) -> tuple[Tensor, Activations]:
        """(P, W) fp32 → (P, W) fp32; `bias` (rows, 1, 1, T) masks padding."""
        self.refresh()
        low = x.to(self.dtype)
        heads = shape.split(self._linear("qkv", low))
        query, key, value = heads
        scores = torch.bmm(query, key.transpose(1, 2)).float().mul_(shape.width**-0.5)
        if bias is not None:
            scores.view(shape.rows, shape.heads, shape.length, shape.length).add_(bias)
        probabilities = torch.softmax(scores, dim=-1).to(self.dtype)
        dropped, mask_p = dropout(probabilities)
        context = shape.join(torch.bmm(dropped, value)).mul_(dropout.scale)
        out, mask_o = dropout(self._linear("out", context))
        sum_1 = torch.add(x, out.float(), alpha=dropout.scale)
        normed, mean, scale = self._norm(0, sum_1)
        middle = normed.to(self.dtype)
        up = self._linear("up", middle)
        activated = F.gelu(up)
        down, mask_d = dropout(self._linear("down", activated))
        sum_2 = torch.add(normed, down.float(), alpha=dropout.scale)
        result, mean_2, scale_2 = self._norm(1, sum_2)
        saved = Activations(
            low, heads, probabilities, dropped, context, (sum_1, mean, scale), middle, up, activated, (sum_2, mean_2, scale_2),
            (mask_p, mask_o, mask_d),
        )  # fmt: skip
        return result, saved

    def backward(
        self, grad: Tensor, saved: Activations, shape: BatchShape, dropout: PooledDropout, lowest: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the gradient of the input (meaningless at the `lowest` layer) and those of `adapters()`, given the output's."""
        grads: dict[str, list[Tensor]] = {}
        mask_p, mask_o, mask_d = saved.masks
        grad = self._norm_backward(1, grad, saved.norm_2)
        low = dropout.apply(grad.mul(dropout.scale).to(self.dtype), mask_d)
        grads["down"] = self._adapter_grads("down", saved.activated, low)
        low = torch.ops.aten.gelu_backward(low @ self.weights["down"], saved.up)
        grads["up"] = self._adapter_grads("up", saved.middle, low)
        grad = self._norm_backward(0, grad.add_((low @ self.weights["up"]).float()), saved.norm_1)
        low = dropout.apply(grad.mul(dropout.scale).to(self.dtype), mask_o)
        grads["out"] = self._adapter_grads("out", saved.context, low)
        low = self._attention_backward(low @ self.weights["out"], saved, shape, dropout, mask_p)
        for name, part in zip(QKV, low.chunk(3, dim=1), strict=True):
            grads[name] = self._adapter_grads(name, saved.x, part)
        if not lowest:
            grad = grad.add_((low @ self.weights["qkv"]).float())
        return grad, [grad for name in PROJECTIONS for grad in grads[name]]

    def _attention_backward(
        self, grad: Tensor, saved: Activations, shape: BatchShape, dropout: PooledDropout, mask: Tensor | None
    ) -> Tensor:
        """Return the gradient (P, 3W) of query, key and value, given the context's (P, W)."""
        (context,) = shape.split(grad.mul_(dropout.scale))
        query, key, value = saved.heads
        grads = torch.empty_like(saved.heads)
        torch.bmm(saved.dropped.transpose(1, 2), context, out=grads[2])
        undropped = dropout.apply(torch.bmm(context, value.transpose(1, 2)), mask).float()
        scores = torch._softmax_backward_data(undropped, saved.probabilities.float(), -1, torch.float32)
        scores = scores.mul_(shape.width**-0.5).to(self.dtype)
        torch.bmm(scores, key, out=grads[0])
        torch.bmm(scores.transpose(1, 2), query, out=grads[1])
        return shape.join(grads)

    def _adapter_grads(self, name: str, x: Tensor, grad: Tensor) -> list[Tensor]:
        """Return the gradients of the trained ones of A and B, from the projection's input and its output's gradient."""
        adapter = self.projections[name].adapter
        if adapter is None or not self._trained(name):
            return []
        grads = []
        if adapter.a.requires_grad:
            grads.append(((grad @ adapter.b.to(self.dtype)).t() @ x).float().mul_(adapter.scaling))
        if adapter.b.requires_grad:
            grads.append((grad.t() @ (x @ adapter.a.to(self.dtype).t())).float().mul_(adapter.scaling))
        return grads

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.addmm(self.biases[name], x, self.weights[name].t())

    def _norm(self, number: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm = self.norms[number]
        return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def _norm_backward(self, number: int, grad: Tensor, saved: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        norm = self.norms[number]
        input_grad: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad, saved[0], norm.normalized_shape, *saved[1:], norm.weight, norm.bias, [True, False, False]
        )[0]
        return input_grad


class FusedBert:
    """BERT with fused layers and a manual backward pass, on the parameters of `encoder`; only adapters get gradients."""

    def __init__(self, encoder: PeftModel, dtype: torch.dtype, probability: float) -> None:
        bert: Any = encoder.get_base_model()
        self.embeddings = bert.embeddings
        self.heads = bert.config.num_attention_heads
        self.layers = [FusedLayer(module, dtype) for module in bert.encoder.layer]
        self.dtype, self.probability = dtype, probability

    def refreshes(self) -> list[Callable[[], None]]:
        """Return the calls that merge changed adapters, to run in parallel: one for each layer.

        A forward pass would merge them too, one after the other.
        """
        return [layer.refresh for layer in self.layers]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None) -> Tensor:
        """(B, T), (B, T) → last hidden states (B, T, W) in fp32; `seed` is of the dropout, None for no dropout."""
        rows, length = input_ids.shape
        with torch.no_grad():
            x = self.embed(input_ids)
        shape = BatchShape(rows, length, self.heads, x.shape[-1] // self.heads)
        largest = max(x.numel(), rows * self.heads * length**2)  # hidden states, or the attention of long rows
        dropout = PooledDropout.of(self.probability, seed, self.dtype, largest=largest)
        bias = None
        if not attention_mask.all():
            bias = (1.0 - attention_mask[:, None, None, :].float()) * MASKED_SCORE
        adapters = [p for layer in self.layers for p in layer.adapters()]
        hidden: Tensor = _ManualBackward.apply(self.layers, x.view(rows * length, -1), shape, bias, dropout, *adapters)  # type: ignore[no-untyped-call]
        return hidden.view(rows, length, -1)

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) → (B, T, W) fp32, before dropout."""
        modules = self.embeddings
        positions = modules.position_embeddings.weight[: input_ids.shape[1]].float()
        constant = positions + modules.token_type_embeddings.weight[0].float()
        embedded: Tensor = modules.LayerNorm(F.embedding(input_ids, modules.word_embeddings.weight).float() + constant)
        return embedded


class _ManualBackward(torch.autograd.Function):
    """All layers as one autograd function."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[FusedLayer],
        x: Tensor,
        shape: BatchShape,
        bias: Tensor | None,
        dropout: PooledDropout,
        *adapters: Tensor,
    ) -> Tensor:
        x = dropout(x)[0].mul_(dropout.scale)
        lowest = next((number for number, layer in enumerate(layers) if layer.adapters()), len(layers))
        saved = []
        for number, layer in enumerate(layers):
            x, activations = layer.forward(x, shape, bias, dropout)
            if number >= lowest and any(ctx.needs_input_grad):
                saved.append(activations)
        ctx.layers, ctx.saved, ctx.shape, ctx.dropout = layers[lowest:], saved, shape, dropout
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor] = []
        grad = grad.contiguous()
        for number in reversed(range(len(ctx.layers))):
            grad, adapter_grads = ctx.layers[number].backward(grad, ctx.saved.pop(), ctx.shape, ctx.dropout, number == 0)
            grads = adapter_grads + grads
        return None, None, None, None, None, *grads
