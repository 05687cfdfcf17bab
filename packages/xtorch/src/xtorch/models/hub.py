"""Models with the weights of a repository on the Hugging Face hub.

Only ``config.json`` and ``model.safetensors`` are read: numbers and names. Nobody's code or pickle runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xtorch.errors import SettingsError, WeightsError
from xtorch.models import create

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MAX_LAYERS = 256
_MAX_CONFIG_BYTES = 1 << 20
_SHOWN_NAMES = 3

_TIMM = {
    "efficientnet_b0": "efficientnet_b0",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vit_base_patch16_224": "vit_base",
    "vit_small_patch16_224": "vit_small",
    "vit_tiny_patch16_224": "vit_tiny",
}
"""timm's architectures -> ours. A suffix behind a dot, such as ``.augreg_in21k``, names weights."""

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a repository holds: how its model is built, and how its names become ours."""

    build: Callable[[], nn.Module]
    rename: Callable[[State], State] = lambda state: state


def from_hub(
    model_id: str,
    *,
    architecture: str | None = None,
    num_classes: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> nn.Module:
    """A model with published weights, from the hub, from its cache on this machine, or from a folder.

    Known are timm's repositories of `_TIMM`'s architectures and Hugging Face's of BERT encoders; others load
    when `architecture` says what they are and the names of their weights are the published ones.

    Args:
        model_id: ``owner/name``, or a folder that holds ``config.json`` and ``model.safetensors``.
        architecture: Of `xtorch.models.ARCHITECTURES`, where ``config.json`` does not say it.
        num_classes: With `architecture`: size of the classifier; None: the architecture's default.
        revision: Branch, tag or commit; None: the newest. Give a commit to get the same weights each time.
        cache_dir: Where downloads are kept; None: the hub's own place.
        endpoint: URL of the hub or a mirror; None: the public one, or ``HF_ENDPOINT``.

    Returns:
        In evaluation mode, float32, on the CPU.

    Raises:
        WeightsError: The repository cannot be had (offline and not in the cache, missing, private), has no
            safetensors, or does not fit the architecture.
        SettingsError: There is no such architecture, or it takes no `num_classes`.
    """
    get = partial(_get, model_id, revision=revision, cache_dir=cache_dir, endpoint=endpoint)
    config = _read_config(get(_CONFIG), model_id)
    plan = _plan(config, model_id, architecture, num_classes)
    published = _read_weights(get(_WEIGHTS), model_id)
    try:
        state = plan.rename(published)
    except KeyError as error:
        raise _unfit(model_id, f"{error.args[0]!r} is none of the architecture's names") from error
    # Sizes come from a stranger's file: nothing is allocated before they fit the weights.
    try:
        with torch.device("meta"):
            model = plan.build()
    except TypeError as error:
        raise SettingsError(f"The architecture does not take this: {error}", value=num_classes) from error
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()[1 : 1 + _SHOWN_NAMES]
        raise _unfit(model_id, " ".join(line.strip() for line in lines)[:400]) from error
    return model.eval()


def _unfit(model_id: str, reason: str) -> WeightsError:
    return WeightsError(
        f"The weights of {model_id} do not fit the architecture: {reason}",
        value=model_id,
        hint="name the architecture (architecture=...) if config.json means another one",
    )


def _get(
    model_id: str, name: str, *, revision: str | None, cache_dir: str | Path | None, endpoint: str | None
) -> Path:
    """The path of a repository's file, downloaded where it is not here."""
    folder = Path(model_id)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise _no_file(model_id, name)
        return folder / name
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise WeightsError(
            "Models from the hub need the package huggingface_hub.",
            value=model_id,
            hint="pip install 'ignition-xtorch[hub]'",
        ) from None
    offline_hint = (
        "connect once, so that the files are kept in the cache; or copy config.json and model.safetensors "
        "into a folder and give its path"
    )
    try:
        return Path(
            hf_hub_download(model_id, name, revision=revision, cache_dir=cache_dir, endpoint=endpoint)
        )
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{model_id!r} is no name of a repository.", value=model_id, hint="it looks like owner/name"
        ) from error
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{model_id} is given only to those who accepted its terms.",
            value=model_id,
            hint="accept them on its page, and set HF_TOKEN",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"There is no repository {model_id}, or it is private.",
            value=model_id,
            hint="check the name; set HF_TOKEN for private ones",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"{model_id} has no revision {revision!r}.", value=revision, hint="leave it out for the newest"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise WeightsError(
            f"{model_id} is not in this machine's cache, and the hub cannot be reached.",
            value=model_id,
            hint=offline_hint,
        ) from error
    except errors.EntryNotFoundError as error:
        raise _no_file(model_id, name) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{model_id} cannot be had: {error}", value=model_id, hint=offline_hint) from error


def _no_file(model_id: str, name: str) -> WeightsError:
    reason = "; pickled weights are never loaded" if name == _WEIGHTS else ""
    return WeightsError(
        f"{model_id} has no {name}{reason}.",
        value=name,
        hint="choose a repository, or a revision, with safetensors in one file",
    )


def _read_config(path: Path, model_id: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"config.json of {model_id} cannot be read: {error}", value=model_id) from error
    return config


def _read_weights(path: Path, model_id: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{_WEIGHTS} of {model_id} is damaged: {error}",
            value=model_id,
            hint="delete it from the cache and load again",
        ) from error
    return {name: x.float() if x.is_floating_point() else x for name, x in state.items()}


def _plan(
    config: Mapping[str, Any], model_id: str, architecture: str | None, num_classes: int | None
) -> _Plan:
    if architecture is None and config.get("model_type") == "bert":
        return _bert(config, model_id)
    name = architecture
    if name is None:
        said = str(config.get("architecture", config.get("model_type", "")))
        name = _TIMM.get(said.partition(".")[0])
        if name is None:
            raise WeightsError(
                f"xTorch has no architecture for {said!r}, which {model_id} is.",
                value=said,
                hint=f"known: bert, {', '.join(_TIMM)}; or name one: architecture=...",
            )
        num_classes = config.get("num_classes", num_classes)
    options = {} if num_classes is None else {"num_classes": _size(num_classes, "num_classes", model_id)}
    return _Plan(build=partial(create, name, **options), rename=partial(_rename, name))


def _rename(architecture: str, state: State) -> State:
    """Names of other publishers' files as the architecture's own."""
    from xtorch.models import efficientnet_b, vit

    if architecture == "efficientnet_b0" and "conv_stem.weight" in state:
        return efficientnet_b.from_timm(state)
    if architecture.startswith("vit_") and "class_token" in state:
        return vit.from_torchvision(state)
    return state


def _size(value: Any, name: str, model_id: str, *, most: int = 1 << 24) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise WeightsError(f"config.json of {model_id} says {name} = {value!r}.", value=value)
    return value


def _bert(config: Mapping[str, Any], model_id: str) -> _Plan:
    from xtorch.models.bert import Bert, BertConfig

    def size(name: str, default: int, most: int = 1 << 24) -> int:
        return _size(config.get(name, default), name, model_id, most=most)

    epsilon, activation = config.get("layer_norm_eps", 1e-12), config.get("hidden_act", "gelu")
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise WeightsError(f"config.json of {model_id} says layer_norm_eps = {epsilon!r}.", value=epsilon)
    if activation != "gelu":
        raise WeightsError(
            f"{model_id} computes with {activation!r}; xTorch's BERT knows gelu.", value=activation
        )
    found = BertConfig(
        vocabulary=size("vocab_size", 30522),
        channels=size("hidden_size", 768),
        layers=size("num_hidden_layers", 12, _MAX_LAYERS),
        heads=size("num_attention_heads", 12),
        intermediate=size("intermediate_size", 3072),
        max_length=size("max_position_embeddings", 512),
        num_types=size("type_vocab_size", 2),
        norm_epsilon=epsilon,
    )
    if found.channels % found.heads:
        raise WeightsError(
            f"config.json of {model_id} divides {found.channels} channels into {found.heads} heads.",
            value=found.heads,
        )
    return _Plan(build=partial(Bert, found), rename=_bert_names)


def _bert_names(state: State) -> State:
    """The encoder's names, with or without ``bert.`` before them; pooler and heads are left out."""
    plain = {name.removeprefix("bert."): x for name, x in state.items()}
    return {
        name: x
        for name, x in plain.items()
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids")
    }
