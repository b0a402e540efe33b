"""Live sources: a module with example inputs, from a user's factory or from Hugging Face."""

from __future__ import annotations

import contextlib
import inspect
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lepton_core.environment import available_cpus
from lepton_core.errors import SourceError
from lepton_core.files import digest_path
from lepton_torch._usercode import call_user_code, near, try_alone, user_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from lepton_core.types import Model

_CONTRACT = (
    "A factory takes no arguments and returns (module, example_inputs); example_inputs is a "
    "tensor, a tuple of tensors in the order of forward's parameters, or a dict of tensors by "
    "parameter name."
)


@dataclass
class LiveSource:
    """A module in memory and what is needed to export it.

    Attributes:
        module: In eval mode, on the CPU.
        inputs: Example tensors by input name, in the order of ``forward``'s parameters.
        positional: Whether ``forward`` must be called by position.
        axes: Symbols of dimensions beside the batch, by input and dimension.
        bounds: Largest size of each of those symbols.
        root: Folder of the user's code; ``None`` if the code is a library's.
        digest: Digest of the source's files.
        origin: Facts about the source (JSON types), without paths of this machine.
        metadata: Facts for the users of every later artifact (labels, preprocessing).
        warnings: What the user should know.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    positional: bool = False
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    root: Path | None = None
    digest: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def call(self, inputs: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401 - forward's own
        """Run the module as it is, without gradients."""
        with torch.no_grad():
            if self.positional:
                return self.module(*inputs.values())
            return self.module(**inputs)


@contextlib.contextmanager
def open_source(model: Model, seed: int) -> Iterator[LiveSource]:
    """Bring a source to life for the length of the block.

    Args:
        model: Of format ``torch.factory`` or ``huggingface``.
        seed: Seeds torch and numpy before the user's factory runs, so that random example
            inputs and untrained weights are the same every time.

    Raises:
        SourceError: It cannot be found, imported or called, or returns something else.
    """
    if torch.get_num_threads() > available_cpus():  # torch does not see a container's quota
        torch.set_num_threads(available_cpus())
    if model.format == "huggingface":
        from lepton_torch._huggingface import load

        with _seeded(seed):
            yield prepare(load(model))
        return
    path = Path(model.path).resolve()
    if not path.is_file():
        raise SourceError(
            "LPT-SRC-101",
            f"{model.path} does not exist",
            remedy="Write a torch source as FILE.py:FACTORY, with the path of an existing file.",
        )
    with _seeded(seed), user_module(path) as user:
        yield prepare(_from_factory(user, path, model.entry))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random generators that factories use, and put their states back afterwards."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the legacy generator is what factories use
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def _from_factory(user: ModuleType, path: Path, entry: str | None) -> LiveSource:
    factory = _find_factory(user, path, entry)
    _check_parameters(factory, path, entry)
    returned = call_user_code(
        f"{path.name}:{entry} failed",
        factory,
        path=path,
        code="LPT-SRC-106",
        remedy=try_alone(path, entry),
    )
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise _wrong_return(path, entry, f"It returned {_describe(returned)}.")
    module, example = returned
    if not isinstance(module, nn.Module):
        raise _wrong_return(
            path, entry, f"The first of the two is {_describe(module)}, not a torch.nn.Module."
        )
    module = getattr(module, "_orig_mod", module)  # what torch.compile wrapped
    if isinstance(module, torch.jit.ScriptModule):
        raise _wrong_return(
            path, entry, "The module is TorchScript, which torch.export cannot read."
        )
    inputs, positional = _named_inputs(module, example, path, entry)
    return LiveSource(
        module,
        inputs,
        positional,
        root=path.parent,
        digest=digest_path(path),
        origin={"kind": "torch.factory", "file": path.name, "entry": entry},
    )


def _find_factory(user: ModuleType, path: Path, entry: str | None) -> Callable[..., Any]:
    public = {k: v for k, v in vars(user).items() if not k.startswith("_")}
    own = [k for k, v in public.items() if inspect.isfunction(v) and v.__module__ == user.__name__]
    offer = f"Functions in {path.name}: {', '.join(own) or 'none'}."
    if not entry:
        raise SourceError(
            "LPT-SRC-103",
            f"{path.name} is given without the name of a factory",
            cause=offer,
            remedy=f"Write {path.name}:FACTORY.",
        )
    if entry not in vars(user):
        close = near(entry, [k for k, v in public.items() if callable(v)])
        raise SourceError(
            "LPT-SRC-103",
            f"{path.name} has no {entry!r}",
            cause=offer,
            remedy=f"Did you mean {path.name}:{close[0]}?" if close else f"Write {path.name}:NAME.",
            details={"near": close},
        )
    found: Callable[..., Any] = vars(user)[entry]
    if isinstance(found, nn.Module) or not callable(found):
        raise SourceError(
            "LPT-SRC-104",
            f"{path.name}:{entry} is {_describe(found)}, not a function",
            cause=_CONTRACT,
            remedy=f"Write a function that returns it, with example inputs. {offer}",
        )
    return found


def _check_parameters(factory: Callable[..., Any], path: Path, entry: str | None) -> None:
    """Refuse a factory that cannot be called without arguments; a module class is one."""
    if isinstance(factory, type) and issubclass(factory, nn.Module):
        raise SourceError(
            "LPT-SRC-104",
            f"{path.name}:{entry} is a module class, not a factory",
            cause=_CONTRACT,
            remedy=f"Write e.g. `def net(): return {entry}(), torch.zeros(1, 3, 224, 224)`.",
        )
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise SourceError(
            "LPT-SRC-105",
            f"{path.name}:{entry} cannot be called without arguments",
            cause=f"{error}. {_CONTRACT}",
            remedy="Give its parameters default values.",
        ) from error
    except ValueError:  # a builtin without a signature: calling it will tell
        return


def _describe(value: object) -> str:
    if isinstance(value, nn.Module):
        return f"the module {type(value).__name__}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} ({', '.join(type(v).__name__ for v in value)})"
    return "None" if value is None else f"a {type(value).__name__}"


def _wrong_return(path: Path, entry: str | None, cause: str) -> SourceError:
    return SourceError(
        "LPT-SRC-107",
        f"{path.name}:{entry} does not return what a factory must",
        cause=f"{cause} {_CONTRACT}",
        remedy="End it with e.g. `return module.eval(), {'image': torch.zeros(1, 1, 8, 8)}`.",
    )


def _as_tensor(value: object) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu")
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return torch.from_numpy(array.copy()) if array.dtype.kind in "biufc" else None
    return None


def _named_inputs(
    module: nn.Module, example: object, path: Path, entry: str | None
) -> tuple[dict[str, torch.Tensor], bool]:
    """Give the example tensors the names of ``forward``'s parameters.

    Returns:
        Tensors by name in the order of the parameters, and whether to call by position.
    """
    named = isinstance(example, dict)
    items: list[tuple[Any, object]]
    if isinstance(example, dict):
        items = list(example.items())
    else:
        items = list(enumerate(example if isinstance(example, (tuple, list)) else (example,)))
    tensors = {}
    for key, value in items:
        tensor = _as_tensor(value)
        if tensor is None:
            raise _wrong_return(path, entry, f"Example input {key!r} is {_describe(value)}.")
        tensors[key] = tensor
    if not tensors:
        raise _wrong_return(path, entry, "example_inputs is empty.")
    signature = inspect.signature(module.forward)
    try:
        if named and not all(isinstance(k, str) and k.isidentifier() for k in tensors):
            raise TypeError("input names must be Python identifiers")
        bound = signature.bind(**tensors) if named else signature.bind(*tensors.values())
    except TypeError as error:
        given = list(tensors) if named else None
        raise _unbound(module, signature, given, len(tensors), error) from error
    names: list[str] = []
    positional = False
    for name in bound.arguments:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(len(bound.arguments[name]))]
            positional = True
        elif kind is inspect.Parameter.VAR_KEYWORD:
            names += list(bound.arguments[name])
        else:
            names.append(name)
            positional |= kind is inspect.Parameter.POSITIONAL_ONLY
    ordered = [tensors[n] for n in names] if named else list(tensors.values())
    return dict(zip(names, ordered, strict=True)), positional


def _unbound(
    module: nn.Module,
    signature: inspect.Signature,
    names: list[str] | None,
    count: int,
    error: TypeError,
) -> SourceError:
    known = list(signature.parameters)
    strange = [str(n) for n in names or () if n not in known]
    pairs = [(n, c[0]) for n in strange if (c := near(n, known, 1))]
    hint = "; ".join(f"did you mean {close!r} instead of {n!r}?" for n, close in pairs)
    given = ", ".join(map(str, names)) if names is not None else f"{count} tensors by position"
    return SourceError(
        "LPT-SRC-108",
        f"The example inputs do not fit {type(module).__name__}.forward{signature}",
        cause=f"{error}; given: {given}",
        remedy=(hint[:1].upper() + hint[1:]) if hint else "Name each example after a parameter.",
        details={"parameters": known},
    )


def prepare(source: LiveSource) -> LiveSource:
    """Bring the module to the CPU, to eval mode and, from half precision, to float32.

    Raises:
        SourceError: The module cannot run its own example inputs.
    """
    module = source.module.to("cpu").eval().requires_grad_(False)
    halves = {
        str(t.dtype).removeprefix("torch.")
        for t in [*module.parameters(), *module.buffers()]
        if t.dtype in (torch.float16, torch.bfloat16)
    }
    if halves:
        module = module.float()
        source.inputs = {
            k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v
            for k, v in source.inputs.items()
        }
        source.warnings.append(
            f"The weights are {' and '.join(sorted(halves))}; the model was exported in float32, "
            "which holds their exact values."
        )
    source.module = module
    source.origin["module"] = type(module).__name__
    root = source.root
    call_user_code(
        f"{type(module).__name__} cannot run its own example inputs",
        source.call,
        {name: value.clone() for name, value in source.inputs.items()},  # forward may write
        path=(root or Path()) / source.origin.get("file", "config.json"),
        code="LPT-SRC-109",
        remedy="Give example inputs that forward takes; these are "
        + ", ".join(f"{n}: {list(t.shape)} of {t.dtype}" for n, t in source.inputs.items())
        + ".",
    )
    return source
