"""What the frozen layers at the bottom make of each text, computed once and kept on disk.

Without dropout below the cut that is the same in every epoch (`freezing` sees to it). It is kept under a digest of the weights
below the cut and the arithmetic; in there a text is found by its pieces, which hold all that tokenizer and length limit make of
it. So a data set that has grown computes only its new texts. Embedding recycling (Saad-Falcon et al. 2022), AutoFreeze (Liu et
al. 2021).
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

SEGMENT_ROWS = 4096  # that are in memory before they are written
CHECKED_ROWS = 8  # held against the whole encoder before the cache is used
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # of a hidden state, which layer norm keeps near 1
log = structlog.get_logger()


class Location(NamedTuple):
    """Where a text's hidden states lie: rows `start` to `start + length` of a segment."""

    segment: int
    start: int
    length: int


class _ReachedError(Exception):
    """Leaves the encoder where a layer would begin."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class SegmentStore:
    """Segments of hidden states in one folder, written whole and never changed; bf16 lies there as its bits."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        self.folder, self.dtype = folder, torch.bfloat16 if precision == "bf16" else torch.float32
        self.segments: list[NDArray[Any]] = []
        self.places: dict[str, Location] = {}
        for index in sorted(folder.glob("*.json")):
            self._open(index)

    def add(self, rows: dict[str, Tensor]) -> None:
        """One more segment, of (T, W) each; its index is written last."""
        if not rows:
            return
        name = sha256("".join(rows).encode()).hexdigest()[:16]
        whole = torch.cat(list(rows.values())).to(self.dtype)
        with atomic_write(self.folder / f"{name}.npy") as part, part.open("wb") as file:
            np.save(file, whole.view(torch.int16 if self.dtype == torch.bfloat16 else self.dtype).numpy())
        write_json(self.folder / f"{name}.json", {key: len(hidden) for key, hidden in rows.items()})
        self._open(self.folder / f"{name}.json")

    def read(self, place: Location) -> Tensor:
        """(T, W) as it was kept."""
        own = self.segments[place.segment][place.start : place.start + place.length]
        return torch.from_numpy(np.array(own)).view(self.dtype)

    def _open(self, index: Path) -> None:
        start = 0
        for key, length in json.loads(index.read_text(encoding="utf-8")).items():
            self.places[key] = Location(len(self.segments), start, length)
            start += length
        self.segments.append(np.load(index.with_suffix(".npy"), mmap_mode="r"))


class PrefixCache:
    """Hidden states that enter layer `cut` of an encoder, for any texts."""

    def __init__(self, encoder: nn.Module, cut: int, home: Path, precision: Precision) -> None:
        self.encoder, self.cut, self.precision = encoder, cut, precision
        folder = home / "prefix" / lower_layers_digest(encoder, cut, precision)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        delete_expired(folder)
        self.store = SegmentStore(folder, precision)

    def collate(self, pieces: Pieces, batch_size: int) -> Collate:
        """Batches of these texts with hidden states (B, T, W) where pieces would be; computes what is not there yet."""
        keys = [text_key(own) for own in pieces]
        self._fill({key: own for key, own in zip(keys, pieces, strict=True) if key not in self.store.places}, batch_size)
        places = [self.store.places[key] for key in keys]

        def collate(rows: Sequence[int]) -> dict[str, Tensor]:
            own = [self.store.read(places[row]) for row in rows]
            mask = pad(pieces, rows)["attention_mask"]
            return {"input_ids": nn.utils.rnn.pad_sequence(own, batch_first=True), "attention_mask": mask}

        return collate

    def _fill(self, missing: dict[str, list[int]], batch_size: int) -> None:
        keys, pieces = list(missing), list(missing.values())
        rows: dict[str, Tensor] = {}
        for batch in sorted_batches([len(own) for own in pieces], batch_size):
            hidden = self.entering(**pad(pieces, batch))
            rows |= {keys[row]: own[: len(pieces[row])] for row, own in zip(batch, hidden, strict=True)}
            if len(rows) >= SEGMENT_ROWS:
                self.store.add(rows)
                rows = {}
        self.store.add(rows)

    @torch.inference_mode()
    def entering(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) → (B, T, W) on the CPU: what layer `cut` is given."""
        device = next(self.encoder.parameters()).device
        hook = encoder_layers(self.encoder)[self.cut].register_forward_pre_hook(_leave, with_kwargs=True)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                self.encoder(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
        except _ReachedError as reached:
            return reached.hidden.cpu()
        finally:
            hook.remove()
        raise AssertionError("the encoder has run past its own layer")

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the encoder takes hidden states as `inputs_embeds` and begins at layer `cut`."""
        skipped = [*encoder_layers(self.encoder)[: self.cut], *_embeddings(self.encoder)]
        for module in skipped:
            module.forward = _hand_on
        try:
            yield
        finally:
            for module in skipped:
                del module.forward

    @torch.inference_mode()
    def difference(self, pieces: Pieces) -> float:
        """The largest difference of a last hidden state between the two ways, over some rows; infinite where the second fails."""
        batch = pad(pieces, range(min(CHECKED_ROWS, len(pieces))))
        device, mask = next(self.encoder.parameters()).device, batch["attention_mask"]
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        was_training = self.encoder.training
        self.encoder.eval()
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                expected = self.encoder(**batch).last_hidden_state
                entering = self.entering(**batch).to(self.store.dtype).to(device)
                with self.in_place():
                    found = self.encoder(inputs_embeds=entering, attention_mask=batch["attention_mask"]).last_hidden_state
        except Exception as error:  # an encoder of another build may refuse in any way it likes
            log.warning("prefix_cache_does_not_fit", error=str(error)[:300])
            return float("inf")
        finally:
            self.encoder.train(was_training)
        return float((found - expected).float().abs().cpu()[mask.bool()].max())


def text_key(pieces: Sequence[int]) -> str:
    """A text by its pieces."""
    return sha256(np.asarray(pieces, dtype=np.int32).tobytes()).hexdigest()[:32]


def lower_layers_digest(encoder: nn.Module, cut: int, precision: Precision) -> str:
    """Of everything that what enters layer `cut` depends on, but for the text."""
    found = sha256(f"{cut} {precision} torch {torch.__version__} transformers {transformers.__version__}".encode())
    for name, parameter in encoder.named_parameters():
        layer = layer_number(name)
        if "lora_" not in name and ((layer is None and "embed" in name) or (layer is not None and layer < cut)):
            found.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:24]


def encoder_layers(encoder: nn.Module) -> nn.ModuleList:
    """The encoder's own layers: the module list that has as many as its configuration says."""
    base = _unwrapped(encoder)
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return next(module for module in lists if len(module) == base.config.num_hidden_layers)


def _unwrapped(encoder: Any) -> Any:
    """The library's own model, without what carries the adapters."""
    return encoder.get_base_model() if hasattr(encoder, "get_base_model") else encoder


def bytes_needed(pieces: Sequence[Pieces], width: int, precision: Precision) -> int:
    """Room on the disk for all of these texts."""
    return sum(len(own) for side in pieces for own in side) * width * (2 if precision == "bf16" else 4)


def _embeddings(encoder: nn.Module) -> list[nn.Module]:
    """Those that are called also with `inputs_embeds` (BERT and its kin add places and a norm there)."""
    base = _unwrapped(encoder)
    return [base.embeddings] if isinstance(getattr(base, "embeddings", None), nn.Module) else []


def _leave(_module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    raise _ReachedError(positional[0] if positional else named["hidden_states"])


def _hand_on(*positional: Any, **named: Any) -> Any:
    """A layer or embedding that gives back what it was given: hidden states come first, or as `inputs_embeds`."""
    given = (*positional, named.get("hidden_states"), named.get("inputs_embeds"))
    return next(one for one in given if isinstance(one, Tensor))
