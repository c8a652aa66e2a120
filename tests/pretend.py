"""A device that is not there: its tensors stay on the CPU, know better, and refuse to meet those of the CPU.

Within `pretend("cuda")` (or "mps") whatever is made on that device or moved there has its storage remembered, so views
and `.data` follow. Where two devices meet it raises, as torch would, and `waits` lists each place where the processor
waits for the device: asks for a value, or for a size that depends on values, or copies without `non_blocking`.
"""

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from frcnn_common import constants, engine, inference, recipes

GROUP = torch._C._group_tensors_by_device_and_dtype
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._foreach_copy_.default}  # what may take from one device and give to another
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
ASKS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.allclose.default, aten.nonzero.default,
    aten.masked_select.default, aten.bincount.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default,
}  # fmt: skip
PACKAGE = str(Path(constants.__file__).parent)


def leaves(values):
    """What a nest of lists, tuples and dicts holds."""
    if isinstance(values, (list, tuple, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from leaves(value)
    else:
        yield values


def tensors(*values):
    return [leaf for leaf in leaves(values) if isinstance(leaf, torch.Tensor)]


class Generator(torch.Generator):
    """A generator that says it is on the device; its numbers are the CPU's."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.home = torch.device(device).type
        return generator


class Pretend(TorchFunctionMode):
    """The functions of torch, as Python calls them: which device is asked for, and which is answered."""

    def __init__(self, name):
        super().__init__()
        self.name, self.waits, self.storages, self.placing = name, Counter(), {}, False

    def holds(self, tensor):
        return tensor.untyped_storage()._cdata in self.storages

    def place(self, result):
        for tensor in tensors(result):
            if self.name == "mps" and tensor.dtype in (torch.float64, torch.complex128):
                raise TypeError("MPS has no float64")
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = storage  # holding it keeps its address from being reused
        return result

    def wait(self, what):
        frame = sys._getframe()
        while frame and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        name = Path(frame.f_code.co_filename).stem if frame else "elsewhere"
        self.waits[f"{name}.{frame.f_code.co_name}:{frame.f_lineno} {what}" if frame else what] += 1

    def is_mine(self, value):
        return isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == self.name

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, mine = kwargs or {}, [tensor for tensor in tensors(args, kwargs) if self.holds(tensor)]
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return torch.device(self.name, 0) if mine else torch.device("cpu")
        if func == getattr(torch.Tensor, f"is_{self.name}").__get__:
            return bool(mine)
        if func in (torch._C._nn._parse_to, torch.device) or name == "__set__":
            return func(*args, **kwargs)
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self.move(func, args, kwargs)
        if func is torch.Tensor.backward:  # what is written in Python goes on being watched
            with self:
                return torch.autograd.backward(args[0])
        if mine and func in (torch.Tensor.tolist, torch.Tensor.numpy):
            self.wait(name)
            return func(*args, **kwargs)
        made_here = any(map(self.is_mine, leaves((args, kwargs))))
        if made_here and name in ("tensor", "as_tensor") or mine and name == "new_tensor":
            self.wait("a copy to the device")
        if made_here:
            args, kwargs = tree_map(lambda value: "cpu" if self.is_mine(value) else value, (args, kwargs))
        before, self.placing = self.placing, made_here or bool(mine)
        try:
            result = func(*args, **kwargs)
        finally:
            self.placing = before
        return self.place(result) if made_here or mine else result

    def move(self, func, args, kwargs):
        tensor, *rest = args
        if rest and isinstance(rest[0], torch.Tensor):
            rest[:1] = [torch.device(self.name if self.holds(rest[0]) else "cpu"), rest[0].dtype]
        asked = [value for value in (*rest, kwargs.get("device")) if isinstance(value, (str, torch.device))]
        there = self.is_mine(asked[0]) if asked else {"cpu": False, "cuda": True}.get(func.__name__, self.holds(tensor))
        rest, kwargs = tree_map(lambda value: "cpu" if self.is_mine(value) else value, (rest, kwargs))
        if there == self.holds(tensor):
            return func(tensor, *rest, **kwargs)
        if not kwargs.get("non_blocking", False):
            self.wait("a copy to the device" if there else "a copy from the device")
        result = (tensor.clone() if func.__name__ == "cuda" else func(tensor, *rest, **kwargs)).clone()
        if there:
            return self.place(result)
        self.storages.pop(result.untyped_storage()._cdata, None)
        return result


class Beneath(TorchDispatchMode):
    """The operations that torch carries out, also those of a backward pass: whose tensors they are, and who waits."""

    def __init__(self, pretend):
        super().__init__()
        self.pretend = pretend

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, pretend = kwargs or {}, self.pretend
        given = tensors(args, kwargs)
        mine = [tensor for tensor in given if pretend.holds(tensor)]
        others = [t for t in given if not pretend.holds(t) and (t.ndim or func in INDEXING)]
        if mine and func in COPIES:
            if others and not (len(args) > 2 and args[2]):
                pretend.wait("a copy between devices")
            return func(*args, **kwargs)
        if mine and func in INDEXING and pretend.holds(args[0]):
            masks = [t for t in tensors(args[1]) if t.dtype in (torch.bool, torch.uint8)]
            if masks and not (func is not aten.index.Tensor and args[2].numel() == 1):
                pretend.wait("an index by a mask")
            elif any(not pretend.holds(t) for t in tensors(args[1])):
                pretend.wait("an index from the CPU")
        elif mine and others:
            shapes = [(list(t.shape), "there" if pretend.holds(t) else "CPU") for t in given]
            raise RuntimeError(f"{func}: tensors on {pretend.name} and on the CPU: {shapes}")
        if mine and (func in ASKS or func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
            pretend.wait(func.overloadpacket.__name__)
        result = func(*args, **kwargs)
        return pretend.place(result) if mine or pretend.placing and not given else result


def by_device(*args):
    """What torch's own grouping of tensors returns, with the devices that they say they are on."""
    groups = GROUP(*args)
    return {(tensors(found)[0].device, dtype): found for (_, dtype), found in groups.items()}


@contextmanager
def pretend(name):
    """As if there were this device: the library's `DEVICE` is that one."""
    patches = [
        mock.patch.object(room, "DEVICE", torch.device(name)) for room in (constants, engine, inference, recipes)
    ]
    patches.append(mock.patch.object(torch, "Generator", Generator))
    patches.append(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", by_device))
    with ExitStack() as stack:
        mode = Pretend(name)
        for context in (*patches, Beneath(mode), mode):
            stack.enter_context(context)
        yield mode
