"""Are the weights that transformers loaded those of the files, all of them, and in memory of their own?"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity

_NUMBER = re.compile(r"\.\d+(?=\.)")


def refuse_other_weights(model: nn.Module, found: dict[str, Any], identity: ModelIdentity, *, with_head: bool) -> None:
    """UsageError if the files and the configuration do not describe the same model.

    transformers would fill what is missing, or of another shape, with random numbers, and drop what is too much.
    """
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")  # type: ignore[operator]
    missing = [name for name in found["missing_keys"] if with_head or name.rpartition(".")[0] != head]
    fix = "Download config.json and the weights again, both of one version."
    if shapes := sorted(found["mismatched_keys"], key=str):
        name, in_file, in_config = shapes[0]
        raise UsageError(
            f"{identity.label}: {name} is {tuple(in_file)} in the files and {tuple(in_config)} by config.json"
            f"{_more(shapes)}.",
            fix,
        )
    if missing:
        raise UsageError(f"{identity.label}: its files lack {min(missing)}{_more(missing)}.", fix)
    if dropped := _dropped(model, found["unexpected_keys"]):
        raise UsageError(
            f"{identity.label}: its files have {dropped[0]}{_more(dropped)}, which its config.json has no place for.",
            fix,
        )


def _dropped(model: nn.Module, unexpected: Any) -> list[str]:
    """Weights in the files, sorted, that belong to a layer like one of the model's: of a block too many, or a bias.

    Others (of an image encoder, of a head for several tokens) transformers leaves out on purpose.
    """
    modules = {_NUMBER.sub(".N", f".{name}.") for name, _ in model.named_modules()}
    return sorted(
        key
        for key in unexpected
        if key.endswith((".weight", ".bias")) and _NUMBER.sub(".N", f".{key.rpartition('.')[0]}.") in modules
    )


def _more(names: Any) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def own_memory(model: nn.Module) -> None:
    """Move the weights out of the files' mapping: else a file that is written to later would change them."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
