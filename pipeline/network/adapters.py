"""Makes the base trainable: low-rank adapters on a frozen, optionally quantised base, or full fine-tuning."""

import warnings
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import BitsAndBytesConfig

from pipeline.errors import ToolError
from pipeline.network.base_model import lora_target_modules
from pipeline.params import Lora

Quantise = Literal["none", "8bit", "4bit"]


def quantisation_options(quantise: Quantise) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a base in 8 bits (Dettmers et al. 2022) or 4-bit NormalFloat (QLoRA, 2023).

    Raises `ToolError` without a GPU, which bitsandbytes needs. This project's tests never run it on one.
    """
    if quantise == "none":
        return {}
    if not torch.cuda.is_available():
        what = f"quantise = {quantise} needs a GPU, and there is none"
        raise ToolError("params.yaml, quantise", what, "set quantise: none")
    if quantise == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return {"quantization_config": config, "device_map": {"": 0}}


def make_trainable(base: nn.Module, lora: Lora) -> nn.Module:
    """Return the frozen base with adapters, or the base with all parameters trainable, as `method` says."""
    if lora.checkpointing == "layers":  # Chen et al. 2016
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    return base.requires_grad_(True) if lora.method == "full" else add_lora(base, lora)


def add_lora(base: nn.Module, lora: Lora) -> PeftModel:
    """Add trainable low-rank adapters (Hu et al. 2021) to the modules that params name.

    `rank_stabilised` scales by alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023), so that a higher rank learns no slower.
    """
    config = LoraConfig(
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora_target_modules(lora),
        bias=lora.lora_bias,
        use_rslora=lora.lora_scaling == "rank_stabilised",
    )
    if lora.quantise != "none":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks transformers 5 for it
        return get_peft_model(base, config)
