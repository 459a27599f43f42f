"""Modes under which networks run on shapes alone: what is alive, what is computed, of which types.

PyTorch's kernels of shapes are Python and slow, and a transformer asks the same of them in each of
its blocks: what they gave is remembered.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Made(NamedTuple):
    """A new tensor, which fills its storage."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def again(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


_known: dict[Any, Any] = {}
"""Operation and what it was given, by shapes → what it makes; None where it has to be asked."""
_MOST_KNOWN = 1 << 16
_NEW = object()


def outcome(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """What the operation gives: the same that PyTorch's own kernel of shapes gives."""
    try:
        key = (func, _described(args), *((name, _described(v)) for name, v in kwargs.items()))
        known = _known.get(key, _NEW)
    except TypeError:  # what has no description by shapes alone
        return func(*args, **kwargs)
    if known is not None and known is not _NEW:
        return _again(known)
    result = func(*args, **kwargs)
    if known is _NEW and len(_known) < _MOST_KNOWN:
        _known[key] = _made(func, args, kwargs, result)
    return result


def _described(value: Any) -> Any:
    """All that the outcome can depend on. Raises TypeError where shapes do not tell it."""
    kind = type(value)
    if kind in _TENSORS or isinstance(value, Tensor):
        if not value.is_meta or value.is_complex():  # a number may be read, a conjugate be lazy
            raise TypeError
        return (Tensor, value.dtype, value.shape, value.stride())
    if kind in _LISTS or isinstance(value, tuple | list):
        return (kind, *map(_described, value))
    return (kind, value)  # 1 and 1.0 are equal, and mean different types


# Asked first: hundreds of thousands of such questions are most of the work.
_TENSORS, _LISTS = {Tensor, torch.nn.Parameter}, {tuple, list}


def _made(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> Any:
    """How to make the result again; None unless it is new tensors alone, each as large as it
    looks, which share no memory."""
    if func._schema.is_mutable:
        return None
    results = list(_tensors(result))
    others = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
    own = {tensor.untyped_storage()._cdata for tensor in results}
    if own & others or len(own) != len(results) or not results:
        return None
    if not all(map(_is_plain, results)):
        return None
    if isinstance(result, Tensor):
        return _made_of(result)
    if type(result) in (tuple, list) and all(v is None or isinstance(v, Tensor) for v in result):
        return [type(result), *(None if v is None else _made_of(v) for v in result)]
    return None


def _made_of(tensor: Tensor) -> _Made:
    return _Made(tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _is_plain(tensor: Tensor) -> bool:
    if not tensor.is_meta or tensor.is_complex() or tensor.storage_offset():
        return False
    again = _made_of(tensor).again()
    return again.untyped_storage().nbytes() == tensor.untyped_storage().nbytes()


def _again(known: Any) -> Any:
    if isinstance(known, _Made):
        return known.again()
    kind, *parts = known
    return kind(part and part.again() for part in parts)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what an operation takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            if type(each) in _TENSORS:
                yield each
            else:
                yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


class _Mode(TorchDispatchMode):
    """One that is never compiled: PyTorch need not keep its compiler away at each operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Live(_Mode):
    """While it is on, `peak` is the most bytes that tensors made under it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors(args):  # what comes from before is not this work's
            self._hold(tensor.untyped_storage(), new=False)
        for tensor in _tensors(kwargs) if kwargs else ():
            self._hold(tensor.untyped_storage(), new=False)
        result = outcome(func, args, kwargs or {})
        for tensor in (result,) if type(result) in _TENSORS else _tensors(result):
            self._hold(tensor.untyped_storage(), new=True)
        return result

    def _hold(self, storage: torch.UntypedStorage, *, new: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if new else 0
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


_whole: set[Any] = set()
"""Operations that are made of no others."""


class Operations(_Mode):
    """While it is on, `total` counts floating-point operations by PyTorch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _whole and func is not torch.ops.prim.device.default:
            with self:  # what is made of other operations counts as these
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            _whole.add(func)
        result = outcome(func, args, kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.total += _counted(func, formula, args, kwargs, result)
        return result


_counts: dict[Any, int] = {}
"""Operation and what it was given, by shapes → its floating-point operations."""


def _counted(func: Any, formula: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    try:
        key = (func, _described(args), *((name, _described(v)) for name, v in kwargs.items()))
        count = _counts.get(key)
    except TypeError:
        return int(formula(*args, **kwargs, out_val=result))
    if count is None:
        count = int(formula(*args, **kwargs, out_val=result))
        if len(_counts) < _MOST_KNOWN:
            _counts[key] = count
    return count


class _Fused(torch.autograd.Function):
    """Attention by its shapes: it keeps its inputs, its output and one number for each row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


_NARROW = {F.linear, F.conv2d}
_WIDE = {F.group_norm, F.layer_norm, F.rms_norm, F.softmax}
_CAST = _NARROW | _WIDE


class Shapes(TorchFunctionMode):
    """Runs networks on shapes: attention fused, and types as automatic mixed precision has them
    (products in `narrow`, norms in float32) where a type is given."""

    def __init__(self, narrow: torch.dtype | None = None) -> None:
        super().__init__()
        self.narrow = narrow
        self.operations = 0
        """Floating-point operations of fused attention, with those of its backward pass."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            sides = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            query, key, value = (sides[name] for name in ("query", "key", "value"))
            passes = 1 + 2 * (torch.is_grad_enabled() and query.requires_grad)
            self.operations += passes * 4 * query.numel() * key.shape[-2]
            return _Fused.apply(query, key, value)
        if self.narrow is not None and func in _CAST:
            dtype = self.narrow if func in _NARROW else torch.float32
            args = [_cast(value, dtype) for value in args]
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floats else value
