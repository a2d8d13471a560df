"""BERT's layers written out for short rows on a CPU: one forward and one backward by hand, adapters merged into the weights.

For rows of a dozen pieces the library spends more time around its matrix products than in them: on casts, on dropout masks, on
attention kernels that are made for long rows, on adapters of rank 8 beside every product. Here are only the products and what has
to stand between them. Values and gradients are those of `transformers` and `peft` (held to 1e-5 in fp32 by a test).
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel

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
    """A frozen linear map and its adapter, if it has one."""

    linear: nn.Linear
    adapter: Adapter | None

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """The map behind one of the encoder's modules."""
        if not isinstance(module, LoraLinear):
            return cls(module, None)  # type: ignore[arg-type]
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        return cls(module.get_base_layer(), Adapter(a, b, module.scaling["default"]))


class BatchShape(NamedTuple):
    """Of one micro-batch: rows, pieces of the longest, heads, width of a head."""

    rows: int
    length: int
    heads: int
    width: int

    def split(self, flat: Tensor) -> Tensor:
        """(rows · length, n · heads · width) → (n, rows · heads, length, width), contiguous."""
        by_head = flat.view(self.rows, self.length, -1, self.heads, self.width).permute(2, 0, 3, 1, 4)
        return by_head.contiguous().view(-1, self.rows * self.heads, self.length, self.width)

    def join(self, heads: Tensor) -> Tensor:
        """The way back from `split`."""
        by_row = heads.view(-1, self.rows, self.heads, self.length, self.width).permute(1, 3, 0, 2, 4)
        return by_row.reshape(self.rows * self.length, -1)


class Activations(NamedTuple):
    """What the backward pass of a layer needs of its forward pass; masks are None without dropout."""

    x: Tensor  # (P, W) input of query, key, value
    heads: Tensor  # (3, rows · heads, T, width)
    probabilities: Tensor  # (rows · heads, T, T)
    dropped: Tensor  # the same behind dropout, unscaled
    context: Tensor  # (P, W)
    first: tuple[Tensor, Tensor, Tensor]  # sum before the layer norm, its mean, 1 / its deviation
    middle: Tensor  # (P, W) input of up
    up: Tensor  # (P, 4W) before GELU
    raised: Tensor  # behind it
    second: tuple[Tensor, Tensor, Tensor]
    masks: tuple[Tensor | None, Tensor | None, Tensor | None]  # of probabilities, out, down


class FusedLayer:
    """One layer of the encoder: its maps by name, and their merged weights in the precision that is computed in."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        attention, own = module.attention, module.attention.self
        modules = (own.query, own.key, own.value, attention.output.dense, module.intermediate.dense, module.output.dense)
        self.maps = dict(zip(PROJECTIONS, map(Projection.of, modules), strict=True))
        self.norms = (attention.output.LayerNorm, module.output.LayerNorm)
        self.dtype = dtype
        self.weights = self._frozen()
        biases = {name: own.linear.bias.detach().to(dtype) for name, own in self.maps.items()}
        self.biases = biases | {"qkv": torch.cat([biases[name] for name in QKV])}
        self._lock = Lock()
        self._seen: tuple[int, ...] | None = None  # versions of the adapters that are merged
        self.refresh()

    def adapters(self) -> list[nn.Parameter]:
        """Those that are trained, in the order in which `backward` gives their gradients."""
        return [p for name in PROJECTIONS for p in self._own(name)]

    def refresh(self) -> None:
        """Merge the adapters again where they have changed; any thread may call it."""
        adapters = {name: own.adapter for name, own in self.maps.items() if own.adapter is not None}
        now = tuple(p._version for adapter in adapters.values() for p in adapter[:2])
        with self._lock, torch.no_grad():
            if now == self._seen:
                return
            for name, adapter in adapters.items():
                a, b = adapter.a.to(self.dtype), adapter.b.to(self.dtype)
                weight = self.maps[name].linear.weight.to(self.dtype)
                torch.addmm(weight, b, a, alpha=adapter.scaling, out=self.weights[name])
            self._seen = now

    def _frozen(self) -> dict[str, Tensor]:
        """Weights by name, of query, key and value also as one; those that nothing is merged into are the encoder's own."""
        own = {name: one.linear.weight.detach().to(self.dtype) for name, one in self.maps.items()}
        qkv = torch.cat([own[name] for name in QKV])
        views = dict(zip(QKV, qkv.chunk(3), strict=True))
        merged = {name: own[name].clone() for name in ("out", "up", "down") if self.maps[name].adapter is not None}
        return {**own, "qkv": qkv, **views, **merged}

    def _own(self, name: str) -> list[nn.Parameter]:
        adapter = self.maps[name].adapter
        return [p for p in adapter[:2] if p.requires_grad] if adapter is not None else []

    def forward(self, x: Tensor, shape: BatchShape, bias: Tensor | None, dropout: PooledDropout) -> tuple[Tensor, Activations]:
        """(P, W) fp32 → (P, W) fp32; `bias` (rows, 1, 1, T) hides padding."""
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
        first = torch.add(x, out.float(), alpha=dropout.scale)
        normed, mean, scale = self._norm(0, first)
        middle = normed.to(self.dtype)
        up = self._linear("up", middle)
        raised = F.gelu(up)
        down, mask_d = dropout(self._linear("down", raised))
        second = torch.add(normed, down.float(), alpha=dropout.scale)
        result, mean_2, scale_2 = self._norm(1, second)
        kept = Activations(
            low, heads, probabilities, dropped, context, (first, mean, scale), middle, up, raised, (second, mean_2, scale_2),
            (mask_p, mask_o, mask_d),
        )  # fmt: skip
        return result, kept

    def backward(
        self, grad: Tensor, kept: Activations, shape: BatchShape, dropout: PooledDropout, lowest: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the output → that of the input (none at the `lowest` layer), and those of `adapters()`."""
        grads: dict[str, list[Tensor]] = {}
        mask_p, mask_o, mask_d = kept.masks
        grad = self._norm_backward(1, grad, kept.second)
        low = dropout.again(grad.mul(dropout.scale).to(self.dtype), mask_d)
        grads["down"] = self._adapter_grads("down", kept.raised, low)
        low = torch.ops.aten.gelu_backward(low @ self.weights["down"], kept.up)
        grads["up"] = self._adapter_grads("up", kept.middle, low)
        grad = self._norm_backward(0, grad.add_((low @ self.weights["up"]).float()), kept.first)
        low = dropout.again(grad.mul(dropout.scale).to(self.dtype), mask_o)
        grads["out"] = self._adapter_grads("out", kept.context, low)
        low = self._attention_backward(low @ self.weights["out"], kept, shape, dropout, mask_p)
        for name, own in zip(QKV, low.chunk(3, dim=1), strict=True):
            grads[name] = self._adapter_grads(name, kept.x, own)
        if not lowest:
            grad = grad.add_((low @ self.weights["qkv"]).float())
        return grad, [one for name in PROJECTIONS for one in grads[name]]

    def _attention_backward(
        self, grad: Tensor, kept: Activations, shape: BatchShape, dropout: PooledDropout, mask: Tensor | None
    ) -> Tensor:
        """(P, W) of the context → (P, 3W) of query, key and value."""
        (context,) = shape.split(grad.mul_(dropout.scale))
        query, key, value = kept.heads
        made = torch.empty_like(kept.heads)
        torch.bmm(kept.dropped.transpose(1, 2), context, out=made[2])
        behind = dropout.again(torch.bmm(context, value.transpose(1, 2)), mask).float()
        scores = torch._softmax_backward_data(behind, kept.probabilities.float(), -1, torch.float32)
        scores = scores.mul_(shape.width**-0.5).to(self.dtype)
        torch.bmm(scores, key, out=made[0])
        torch.bmm(scores.transpose(1, 2), query, out=made[1])
        return shape.join(made)

    def _adapter_grads(self, name: str, x: Tensor, grad: Tensor) -> list[Tensor]:
        """Of A and B, as far as they are trained, from the map's input and its output's gradient."""
        adapter = self.maps[name].adapter
        if adapter is None or not self._own(name):
            return []
        found = []
        if adapter.a.requires_grad:
            found.append(((grad @ adapter.b.to(self.dtype)).t() @ x).float().mul_(adapter.scaling))
        if adapter.b.requires_grad:
            found.append((grad.t() @ (x @ adapter.a.to(self.dtype).t())).float().mul_(adapter.scaling))
        return found

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.addmm(self.biases[name], x, self.weights[name].t())

    def _norm(self, number: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm = self.norms[number]
        return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def _norm_backward(self, number: int, grad: Tensor, kept: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        norm = self.norms[number]
        found: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad, kept[0], norm.normalized_shape, *kept[1:], norm.weight, norm.bias, [True, False, False]
        )[0]
        return found


class FusedBert:
    """The encoder's forward pass on its own modules; gradients reach the adapters and nothing else."""

    def __init__(self, encoder: PeftModel, dtype: torch.dtype, probability: float) -> None:
        bert: Any = encoder.get_base_model()
        self.embeddings = bert.embeddings
        self.heads = bert.config.num_attention_heads
        self.layers = [FusedLayer(module, dtype) for module in bert.encoder.layer]
        self.dtype, self.probability = dtype, probability

    def refreshes(self) -> list[Callable[[], None]]:
        """What a forward pass does first where the adapters have changed; called before, side by side, it costs less."""
        return [layer.refresh for layer in self.layers]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, seed: int | None) -> Tensor:
        """(B, T), (B, T) → last hidden states (B, T, W) in fp32; `seed` of the dropout, None for none."""
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
        hidden: Tensor = _Layers.apply(self.layers, x.view(rows * length, -1), shape, bias, dropout, *adapters)  # type: ignore[no-untyped-call]
        return hidden.view(rows, length, -1)

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) → (B, T, W) fp32, before dropout."""
        own = self.embeddings
        places = own.position_embeddings.weight[: input_ids.shape[1]].float() + own.token_type_embeddings.weight[0].float()
        embedded: Tensor = own.LayerNorm(F.embedding(input_ids, own.word_embeddings.weight).float() + places)
        return embedded


class _Layers(torch.autograd.Function):
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
        kept = []
        for number, layer in enumerate(layers):
            x, own = layer.forward(x, shape, bias, dropout)
            if number >= lowest and any(ctx.needs_input_grad):
                kept.append(own)
        ctx.layers, ctx.kept, ctx.shape, ctx.dropout = layers[lowest:], kept, shape, dropout
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor] = []
        grad = grad.contiguous()
        for number in reversed(range(len(ctx.layers))):
            grad, own = ctx.layers[number].backward(grad, ctx.kept.pop(), ctx.shape, ctx.dropout, number == 0)
            grads = own + grads
        return None, None, None, None, None, *grads


def why_not_fused(encoder: nn.Module) -> str | None:
    """None where the encoder can be written out, else why not."""
    if not isinstance(encoder, PeftModel) or type(encoder.get_base_model()) is not BertModel:
        return "the encoder is no BERT with adapters"
    bert: Any = encoder.get_base_model()
    if bert.config.hidden_act != "gelu":
        return f"its activation is {bert.config.hidden_act}"
    if torch.cuda.is_available():
        return "there is a GPU, which has faster ways"
    if any(p.requires_grad and "lora_" not in name for name, p in encoder.named_parameters()):
        return "more than adapters is trained"
    if any(getattr(module, "gradient_checkpointing", False) for module in bert.modules()):
        return "activations are to be computed again"
    return _why_adapters_do_not_fit(encoder)


def _why_adapters_do_not_fit(encoder: PeftModel) -> str | None:
    adapted = [(name, module) for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)]
    if any(".encoder.layer." not in name or not isinstance(module, LoraLinear) for name, module in adapted):
        return "there are adapters outside of the layers"
    if any(isinstance(module.lora_dropout["default"], nn.Dropout) for _, module in adapted):
        return "adapters with dropout of their own cannot be merged"
    return None
