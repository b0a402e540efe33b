"""Hugging Face models through transformers: offline, safetensors only, no remote code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import LeptonError, PluginDependencyError, SourceError
from lepton_core.files import digest_path
from lepton_core.installing import install_command
from lepton_torch._chatter import captured
from lepton_torch._sources import LiveSource

if TYPE_CHECKING:
    from torch import nn

    from lepton_core.types import Model

_SEQUENCE = 16
_IMAGE = (224, 224)
_PREPROCESSING = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale",
    "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb",
)  # fmt: skip
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "pytorch_model.bin.index.json")
_TOKEN_TYPES = {"bert", "albert", "electra", "mobilebert", "big_bird", "funnel", "roformer"}
_NO_REMOTE_CODE = "Lepton never runs code that comes with a model."


def load(model: Model) -> LiveSource:
    """Load a model from a directory or from the local hub cache.

    Nothing is downloaded and no code that comes with the model is run; weights are read from
    safetensors only. Example inputs are made from the configuration: token ids with a mask for
    text, pixels for vision.

    Args:
        model: Of format ``huggingface``; its path is a directory or a hub name.

    Raises:
        PluginDependencyError: transformers is not installed.
        SourceError: The model is not there, needs pickle or remote code, or is of a kind whose
            inputs cannot be made from the configuration.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        with captured():
            import transformers
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-SRC-110",
            "Hugging Face models are read through transformers, which cannot be imported",
            cause=str(error),
            remedy=install_command("lepton-torch[huggingface]"),
        ) from error
    folder = _folder(model.path)
    settings = _settings(folder)
    architecture = _architecture(settings, folder, transformers)
    _check_weights(folder)
    with captured():
        module = _load_module(architecture, folder)
    warnings: list[str] = []
    preprocessing = _preprocessing(folder)
    inputs, axes, bounds = _example(module, settings, folder, preprocessing, warnings)
    return LiveSource(
        module,
        inputs,
        axes=axes,
        bounds=bounds,
        metadata=_metadata(settings, preprocessing),
        warnings=warnings,
        digest=digest_path(folder),
        origin={
            "kind": "huggingface",
            "name": folder.name if Path(model.path).is_dir() else model.path,
            "architecture": architecture.__name__,
        },
    )


def _folder(path: str) -> Path:
    """Return the directory of a model, from the path itself or from the hub's cache."""
    if Path(path).is_dir():
        return Path(path).resolve()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise SourceError(
            "LPT-SRC-111",
            f"{path!r} is neither a directory nor a model in the local Hugging Face cache",
            cause=f"Lepton does not download models; the cache is {constants.HF_HUB_CACHE}",
            remedy=f"Fetch it first (hf download {path}), or give a directory that holds "
            "config.json and model.safetensors.",
        ) from error


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            "LPT-SRC-112",
            f"The configuration of {folder.name} cannot be read",
            cause=str(error),
            remedy="A Hugging Face directory holds config.json and model.safetensors.",
        ) from error
    if not isinstance(settings, dict):
        raise SourceError(
            "LPT-SRC-112",
            f"The configuration of {folder.name} is not a JSON object",
            remedy="Save the model again with save_pretrained.",
        )
    return settings


def _architecture(settings: dict[str, Any], folder: Path, transformers: Any) -> Any:  # noqa: ANN401
    """Return the class that the configuration names."""
    names = settings.get("architectures") or []
    if settings.get("auto_map"):
        raise SourceError(
            "LPT-SRC-113",
            f"{folder.name} brings its own code ({', '.join(settings['auto_map'])})",
            cause=_NO_REMOTE_CODE,
            remedy="Write a factory in a file of your own that builds it: FILE.py:FACTORY.",
        )
    found = [c for n in names if (c := getattr(transformers, str(n), None)) is not None]
    if not found or not hasattr(found[0], "from_pretrained"):
        raise SourceError(
            "LPT-SRC-113",
            f"transformers {transformers.__version__} has no architecture "
            f"{', '.join(map(str, names)) or '(none is named in config.json)'}",
            cause=_NO_REMOTE_CODE,
            remedy="Update transformers, or write a factory that builds it: FILE.py:FACTORY.",
        )
    return found[0]


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise SourceError(
            "LPT-SRC-114",
            f"{folder.name} has its weights as a pickle only ({pickles[0]})",
            cause="Loading a pickle can run any code.",
            remedy="If you trust it: load it with transformers yourself and save it with "
            "save_pretrained, which writes safetensors.",
        )
    raise SourceError(
        "LPT-SRC-115",
        f"{folder.name} holds no weights",
        cause="No *.safetensors file lies beside config.json.",
        remedy="Save the model again with save_pretrained.",
    )


def _load_module(architecture: Any, folder: Path) -> nn.Module:  # noqa: ANN401
    try:
        module, info = architecture.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except LeptonError:
        raise
    except Exception as error:
        if "scaled_dot_product_attention" in str(error):
            module, info = architecture.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                attn_implementation="eager", output_loading_info=True,
            )  # fmt: skip
        else:
            raise SourceError(
                "LPT-SRC-116",
                f"{architecture.__name__} cannot be loaded from {folder.name}",
                cause=f"{type(error).__name__}: {str(error).strip()[:500]}",
                remedy="Check that config.json and the safetensors files belong together.",
            ) from error
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise SourceError(
            "LPT-SRC-116",
            f"{folder.name} lacks {len(missing)} weights of {architecture.__name__}",
            cause=f"Missing: {', '.join(missing[:5])}" + (" …" if len(missing) > 5 else ""),
            remedy="transformers would fill them with random numbers; save the whole model with "
            "save_pretrained.",
        )
    for name in ("use_cache", "output_hidden_states", "output_attentions"):
        if getattr(module.config, name, None):
            setattr(module.config, name, False)
    loaded: nn.Module = module
    return loaded


def _preprocessing(folder: Path) -> dict[str, Any]:
    """Return what the model's own preprocessor states, empty if there is none."""
    try:
        found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _metadata(settings: dict[str, Any], preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Return labels and the preprocessing contract, for the users of every later artifact."""
    metadata: dict[str, Any] = {}
    labels = settings.get("id2label")
    if isinstance(labels, dict) and all(str(k).isdecimal() for k in labels):
        metadata["labels"] = [str(labels[k]) for k in sorted(labels, key=int)]
    kept = {k: preprocessing[k] for k in _PREPROCESSING if preprocessing.get(k) is not None}
    if kept:
        metadata["preprocessing"] = kept
    return metadata


def _example(
    module: nn.Module,
    settings: dict[str, Any],
    folder: Path,
    preprocessing: dict[str, Any],
    warnings: list[str],
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, int]]:
    """Make example inputs from the configuration.

    Returns:
        Tensors by input name, symbols beside the batch, and their upper bounds.
    """
    main = str(getattr(module, "main_input_name", ""))
    config: Any = module.config
    if getattr(config, "is_encoder_decoder", False):
        raise _no_example(module, folder, "it has an encoder and a decoder")
    if main == "pixel_values":
        size = _side(getattr(config, "image_size", None)) or next(
            (s for k in ("crop_size", "size") if (s := _side(preprocessing.get(k)))), None
        )
        if size is None:
            size = _IMAGE
            warnings.append(
                f"The configuration states no image size; {size[0]} by {size[1]} pixels were taken."
            )
        channels = int(getattr(config, "num_channels", None) or 3)
        return {"pixel_values": torch.zeros(2, channels, *size)}, {}, {}
    if main != "input_ids":
        raise _no_example(module, folder, f"its main input is {main or 'unknown'!r}")
    limit = int(getattr(config, "max_position_embeddings", None) or 0)
    if settings.get("model_type") in {"roberta", "xlm-roberta", "camembert"} and limit > 2:
        limit -= 2  # positions start after the padding index
    length = min(_SEQUENCE, limit) if limit else _SEQUENCE
    vocabulary = int(getattr(config, "vocab_size", None) or 2)
    ids = torch.arange(3, 3 + 2 * length).reshape(2, length) % vocabulary
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if settings.get("model_type") in _TOKEN_TYPES and (
        getattr(config, "type_vocab_size", None) or 0
    ):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    axes = {name: {1: "sequence"} for name in inputs}
    return inputs, axes, {"sequence": limit or 65_536}


def _side(size: object) -> tuple[int, int] | None:
    """Return height and width from the forms that configurations use."""
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict):
        size = size.get("shortest_edge")
    return (size, size) if isinstance(size, int) else None


def _no_example(module: nn.Module, folder: Path, why: str) -> SourceError:
    return SourceError(
        "LPT-SRC-117",
        f"No example inputs can be made for {type(module).__name__} in {folder.name}",
        cause=f"{why[0].upper()}{why[1:]}; lepton knows text encoders and image models.",
        remedy="Write a factory that returns the model and example inputs: FILE.py:FACTORY.",
    )
