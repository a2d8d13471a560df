"""A session of PyTorch on `model.pt2`, an exported program."""

from pathlib import Path
from typing import Any

import torch


def open_session(folder: Path, threads: int, device: str) -> Any:
    """Return a function from pieces and mask, (B, T), to logits and sketch, on the CPU or the first GPU."""
    torch.set_num_threads(threads)
    torch_device = torch.device("cuda" if device == "gpu" else "cpu")
    program = torch.export.load(folder / "model.pt2").module().to(torch_device)

    def run(feeds: Any) -> Any:
        ids, mask = (torch.from_numpy(feeds[name]).to(torch_device) for name in ("input_ids", "attention_mask"))
        with torch.inference_mode():
            logits, sketch = program(ids, mask)
        return logits.cpu().numpy(), sketch.cpu().numpy()

    return run
