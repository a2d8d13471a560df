"""Caches on disk the hidden states that the frozen bottom layers compute for each text.

Without dropout below the cut they are the same in every epoch (`freezing` ensures it). The cache folder is keyed by a digest of
the weights below the cut and the precision, an entry by the text's pieces, so a data set that grows computes only its new texts.
Embedding recycling (Saad-Falcon et al. 2022), AutoFreeze (Liu et al. 2021).
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.atomic_write import atomic_write
from pipeline.data.records import write_json
from pipeline.learning.optim import layer_number
from pipeline.learning.resume import delete_expired
from pipeline.network.batching import Pieces, pad, sorted_batches
from pipeline.network.inference import Collate
from pipeline.network.precision import Precision

SEGMENT_ROWS = 4096  # rows held in memory before they are written
CHECKED_ROWS = 8  # rows compared with the whole encoder before the cache is used
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # of a hidden state; layer norm keeps it near 1
log = structlog.get_logger()


class Location(NamedTuple):
    """The location of a text's hidden states: rows `start` to `start + length` of a segment."""

    segment: int
    start: int
    length: int


class _CutReachedError(Exception):
    """Stops the encoder before layer `cut` and carries the hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class SegmentStore:
    """Segments of hidden states in one folder, written atomically and never changed; bf16 is stored as int16 bits."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        self.folder, self.dtype = folder, torch.bfloat16 if precision == "bf16" else torch.float32
        self.segments: list[NDArray[Any]] = []
        self.locations: dict[str, Location] = {}
        for index in sorted(folder.glob("*.json")):
            self._open(index)

    def add(self, rows: dict[str, Tensor]) -> None:
        """Write a segment of texts (T, W) each; its index is written last."""
        if not rows:
            return
        name = sha256("".join(rows).encode()).hexdigest()[:16]
        whole = torch.cat(list(rows.values())).to(self.dtype)
        with atomic_write(self.folder / f"{name}.npy") as part, part.open("wb") as file:
            np.save(file, whole.view(torch.int16 if self.dtype == torch.bfloat16 else self.dtype).numpy())
        write_json(self.folder / f"{name}.json", {key: len(hidden) for key, hidden in rows.items()})
        self._open(self.folder / f"{name}.json")

    def read(self, location: Location) -> Tensor:
        """Return the hidden states (T, W) in the stored precision."""
        rows = self.segments[location.segment][location.start : location.start + location.length]
        return torch.from_numpy(np.array(rows)).view(self.dtype)

    def _open(self, index: Path) -> None:
        start = 0
        for key, length in json.loads(index.read_text(encoding="utf-8")).items():
            self.locations[key] = Location(len(self.segments), start, length)
            start += length
        self.segments.append(np.load(index.with_suffix(".npy"), mmap_mode="r"))


class PrefixCache:
    """The inputs of layer `cut` of an encoder, for any texts."""

    def __init__(self, encoder: nn.Module, cut: int, home: Path, precision: Precision) -> None:
        self.encoder, self.cut, self.precision = encoder, cut, precision
        folder = home / "prefix" / lower_layers_digest(encoder, cut, precision)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        delete_expired(folder)
        self.store = SegmentStore(folder, precision)

    def collate(self, pieces: Pieces, batch_size: int) -> Collate:
        """Return a collate function with hidden states (B, T, W) as `input_ids`; computes those that are not cached."""
        keys = [text_key(text) for text in pieces]
        self._fill({key: text for key, text in zip(keys, pieces, strict=True) if key not in self.store.locations}, batch_size)
        locations = [self.store.locations[key] for key in keys]

        def collate(rows: Sequence[int]) -> dict[str, Tensor]:
            hidden = [self.store.read(locations[row]) for row in rows]
            mask = pad(pieces, rows)["attention_mask"]
            return {"input_ids": nn.utils.rnn.pad_sequence(hidden, batch_first=True), "attention_mask": mask}

        return collate

    def _fill(self, missing: dict[str, list[int]], batch_size: int) -> None:
        keys, pieces = list(missing), list(missing.values())
        rows: dict[str, Tensor] = {}
        for batch in sorted_batches([len(text) for text in pieces], batch_size):
            hidden = self.hidden_at_cut(**pad(pieces, batch))
            rows |= {keys[row]: states[: len(pieces[row])] for row, states in zip(batch, hidden, strict=True)}
            if len(rows) >= SEGMENT_ROWS:
                self.store.add(rows)
                rows = {}
        self.store.add(rows)

    @torch.inference_mode()
    def hidden_at_cut(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) → (B, T, W) on the CPU: the input of layer `cut`."""
        device = next(self.encoder.parameters()).device
        hook = encoder_layers(self.encoder)[self.cut].register_forward_pre_hook(_stop, with_kwargs=True)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                self.encoder(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
        except _CutReachedError as reached:
            return reached.hidden.cpu()
        finally:
            hook.remove()
        raise AssertionError("the encoder never reached layer `cut`")

    @contextmanager
    def skip_lower_layers(self) -> Iterator[None]:
        """Start the encoder at layer `cut` within the context; it takes hidden states as `inputs_embeds`."""
        skipped = [*encoder_layers(self.encoder)[: self.cut], *_embeddings(self.encoder)]
        for module in skipped:
            module.forward = _pass_through
        try:
            yield
        finally:
            for module in skipped:
                del module.forward

    @torch.inference_mode()
    def max_difference(self, pieces: Pieces) -> float:
        """Return the largest difference that the cache makes to a last hidden state, on a few rows; infinite if it fails."""
        batch = pad(pieces, range(min(CHECKED_ROWS, len(pieces))))
        device, mask = next(self.encoder.parameters()).device, batch["attention_mask"]
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        was_training = self.encoder.training
        self.encoder.eval()
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                expected = self.encoder(**batch).last_hidden_state
                hidden = self.hidden_at_cut(**batch).to(self.store.dtype).to(device)
                with self.skip_lower_layers():
                    cached = self.encoder(inputs_embeds=hidden, attention_mask=batch["attention_mask"]).last_hidden_state
        except Exception as error:  # an unknown architecture may fail in any way
            log.warning("prefix_cache_failed", error=str(error)[:300])
            return float("inf")
        finally:
            self.encoder.train(was_training)
        return float((cached - expected).float().abs().cpu()[mask.bool()].max())


def text_key(pieces: Sequence[int]) -> str:
    """Return the cache key of a text: the digest of its pieces."""
    return sha256(np.asarray(pieces, dtype=np.int32).tobytes()).hexdigest()[:32]


def lower_layers_digest(encoder: nn.Module, cut: int, precision: Precision) -> str:
    """Return the digest of everything but the text that the input of layer `cut` depends on."""
    digest = sha256(f"{cut} {precision} torch {torch.__version__} transformers {transformers.__version__}".encode())
    for name, parameter in encoder.named_parameters():
        layer = layer_number(name)
        if "lora_" not in name and ((layer is None and "embed" in name) or (layer is not None and layer < cut)):
            digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]


def encoder_layers(encoder: nn.Module) -> nn.ModuleList:
    """Return the encoder's layers: the module list as long as its configuration says."""
    base = _unwrapped(encoder)
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return next(module for module in lists if len(module) == base.config.num_hidden_layers)


def _unwrapped(encoder: Any) -> Any:
    """Return the library's model without peft's wrapper."""
    return encoder.get_base_model() if hasattr(encoder, "get_base_model") else encoder


def bytes_needed(pieces: Sequence[Pieces], width: int, precision: Precision) -> int:
    """Return the disk space for all of these texts."""
    return sum(len(text) for side in pieces for text in side) * width * (2 if precision == "bf16" else 4)


def _embeddings(encoder: nn.Module) -> list[nn.Module]:
    """Return the modules that also run on `inputs_embeds` (BERT's embeddings add positions and a norm)."""
    base = _unwrapped(encoder)
    return [base.embeddings] if isinstance(getattr(base, "embeddings", None), nn.Module) else []


def _stop(_module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    raise _CutReachedError(positional[0] if positional else named["hidden_states"])


def _pass_through(*positional: Any, **named: Any) -> Any:
    """Return the hidden states that a layer or embedding was called with: the first argument, or `inputs_embeds`."""
    arguments = (*positional, named.get("hidden_states"), named.get("inputs_embeds"))
    return next(argument for argument in arguments if isinstance(argument, Tensor))
