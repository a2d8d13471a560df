"""Writes a model as a folder of the Hugging Face hub: adapter or encoder, head, tokenizer, ONNX and card.

The head is not one of transformers' own (a cosine to each label's vector on mean-pooled pieces), so the card shows the lines of
code that compute it; the encoder with its adapter loads with `transformers` and `peft` alone.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline.card.facts import CardFacts
from pipeline.data.records import write_json
from pipeline.params import Model
from pipeline.sharing.model_card import model_card

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
SETTINGS = "classifier.json"
ALWAYS = {"onnx", "README.md", SETTINGS, "evaluation.json", "tokenizer.json"}
WEIGHTS = {"head.safetensors", "adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"}
ONNX_USAGE = """
`onnx/model.onnx` takes `input_ids` and `attention_mask`, both (texts, tokens). It returns `logits` (texts, labels) and `sketch`,
a projection of the embedding on which drift is measured. Divide the logits by `temperature` of `classifier.json` before the
softmax.
"""
TORCH_USAGE = """
```python
import json
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer
{imports}
folder = "."  # this folder
with open(f"{{folder}}/classifier.json") as file:
    settings = json.load(file)
tokenizer = AutoTokenizer.from_pretrained(folder)
encoder = {load}
head = load_file(f"{{folder}}/head.safetensors")["weight"]  # (labels, width)

texts = ["where is my parcel?"]
inputs = tokenizer(texts, padding=True, truncation=True, max_length=settings["max_length"], return_tensors="pt")
with torch.inference_mode():
    hidden = encoder.eval()(**inputs).last_hidden_state
mask = inputs["attention_mask"].unsqueeze(-1)
embedding = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
logits = settings["scale"] * normalize(embedding, dim=-1) @ normalize(head, dim=-1).T
probabilities = (logits / settings["temperature"]).softmax(dim=-1)
for text, row in zip(texts, probabilities):
    print(text, settings["labels"][int(row.argmax())], float(row.max()))
```
"""
ADAPTER = ("from peft import PeftModel\n", 'PeftModel.from_pretrained(AutoModel.from_pretrained(settings["base_model"]), folder)')
WHOLE = ("", "AutoModel.from_pretrained(folder)")


def is_export(folder: Path) -> bool:
    """Return whether the folder holds what `write_folder` writes, and nothing else at its top."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return ALWAYS <= names <= ALWAYS | WEIGHTS | {*TOKENIZER_FILES}


def write_folder(to: Path, facts: CardFacts, exported: Path, trained: Path | None, model: Model) -> None:
    """Write the folder; without a trained model it holds no weights for transformers, and the card says nothing of them."""
    (to / "onnx").mkdir(parents=True)
    shutil.copyfile(exported / "model.onnx", to / "onnx" / "model.onnx")
    shutil.copyfile(exported / "tokenizer.json", to / "tokenizer.json")
    settings, usage = _settings(facts), "## Use\n" + ONNX_USAGE
    if trained is not None:
        _write_weights(trained, model, facts, to)
        settings |= {"scale": model.head_scale, "pooling": "mean"}
        imports, load = ADAPTER if facts.is_adapter else WHOLE
        usage = "## Use\n" + TORCH_USAGE.format(imports=imports, load=load) + ONNX_USAGE
    write_json(to / SETTINGS, settings)
    write_json(to / "evaluation.json", {"scores": dict(facts.scores), "intervals": facts.report.get("intervals", {})})
    (to / "README.md").write_text(model_card(facts, usage.strip()), encoding="utf-8")  # last: peft writes a card too


def _write_weights(trained_folder: Path, model: Model, facts: CardFacts, to: Path) -> None:
    """Write encoder or adapter as transformers and peft store them, the head, and the tokenizer."""
    from safetensors.torch import save_file

    from pipeline.network.base_model import base_folder  # imports torch, which takes seconds
    from pipeline.network.trained_model import load_trained

    trained = load_trained(trained_folder, model)
    encoder: Any = trained.classifier.encoder
    if facts.is_adapter:
        named = {"base_model_name_or_path": facts.base_model, "revision": None, "task_type": "FEATURE_EXTRACTION"}
        for name, value in named.items():
            setattr(encoder.peft_config["default"], name, value)
        encoder.save_pretrained(to, save_embedding_layers=False)  # adapters never change them; peft would ask the hub
    else:
        encoder.save_pretrained(to)
    save_file({"weight": trained.classifier.head.weight.detach().contiguous()}, to / "head.safetensors")
    base = base_folder(model)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, to / name)


def _settings(facts: CardFacts) -> dict[str, Any]:
    names = list(facts.labels)
    return {
        "base_model": facts.base_model,
        "labels": names,
        "id2label": {str(number): label for number, label in enumerate(names)},
        "label2id": {label: number for number, label in enumerate(names)},
        "temperature": facts.temperature,
        "max_length": facts.max_pieces,
    }
