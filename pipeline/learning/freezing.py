"""Freezes the lower layers and the parameters that patterns name. Frozen layers run without dropout and adapters."""

from difflib import get_close_matches
from fnmatch import fnmatchcase

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from pipeline.errors import InputError
from pipeline.learning.optim import layer_number
from pipeline.params import Train, rates_by_pattern


def freeze(model: nn.Module, train: Train) -> int:
    """Freeze the parameters that params name; return the number of bottom layers without a trained parameter.

    The output of the layers below that cut is constant during training, so it can be computed once. Raises `InputError` when a
    pattern matches no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = count_layers(names)
    trained_layers = layers if train.trained_layers == "all" else train.trained_layers
    if trained_layers > layers:
        what = f"{train.trained_layers} layers cannot be trained: the encoder has {layers}"
        raise InputError("train.trained_layers in params.yaml", what, f"the nearest that works: {layers} (or: all)")
    patterns = _patterns(train, names)
    for name, parameter in model.named_parameters():
        if _is_below(name, layers - trained_layers) or any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        do = "remove patterns from train.frozen, or raise train.trained_layers"
        raise InputError("train.frozen in params.yaml", "nothing is left to train", do)
    cut = lowest_trained_layer(model)
    for name, module in model.named_modules():
        if _is_below(f"{name}.", cut):
            _freeze_module(module)
    return cut


def trained_share(model: nn.Module) -> float:
    """Return the share of parameters that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained) / sum(size for size, _ in sizes)


def count_layers(names: list[str]) -> int:
    """Return the number of layers that these parameters belong to."""
    return 1 + max((layer for name in names if (layer := layer_number(name)) is not None), default=-1)


def lowest_trained_layer(model: nn.Module) -> int:
    """Return the lowest layer with a trained parameter: 0 if embeddings are trained, the number of layers if only the head is."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if any("embed" in name for name in trained):
        return 0
    numbers = [layer for name in trained if (layer := layer_number(name)) is not None]
    return min(numbers, default=count_layers([name for name, _ in model.named_parameters()]))


def _is_below(name: str, cut: int) -> bool:
    """Return whether a parameter or module belongs to the embeddings or a layer below the cut."""
    layer = layer_number(name)
    return cut > 0 and ("embed" in name if layer is None else layer < cut)


def _freeze_module(module: nn.Module) -> None:
    """Put the module into evaluation mode for good, also when its parents are put into training mode."""
    module.eval()
    module.train = lambda _mode=True: module  # type: ignore[method-assign,assignment]
    if isinstance(module, BaseTunerLayer):  # an untrained adapter adds nothing
        module.enable_adapters(False)


def _patterns(train: Train, names: list[str]) -> list[str]:
    """Return the patterns of `frozen` and those of `lr_rules` with rate 0; raise `InputError` for one that matches nothing."""
    frozen = [] if train.frozen == "none" else [part.strip() for part in train.frozen.split(",")]
    rules = rates_by_pattern(train.lr_rules)
    for key, patterns in (("frozen", frozen), ("lr_rules", list(rules))):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                near = get_close_matches(pattern.strip("*"), names, n=1, cutoff=0)[0]
                what = f"no parameter matches `{pattern}`"
                raise InputError(f"train.{key} in params.yaml", what, f"the nearest name is {near}; * matches any characters")
    return [*frozen, *(pattern for pattern, rate in rules.items() if rate == 0)]
