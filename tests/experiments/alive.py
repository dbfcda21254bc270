"""What is really in memory: the bytes of all tensors that are alive, after each operation."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts tensors made inside, of the forward and the backward pass, but for those of a model and its gradients."""

    def __init__(self, model):
        super().__init__()
        both = [each for p in model.parameters() for each in (p, p.grad) if each is not None]
        self.apart = {each.untyped_storage()._cdata for each in both}
        self.known, self.most = {}, 0

    def bytes(self):
        self.known = {key: (there, size) for key, (there, size) in self.known.items() if not there.expired()}
        return sum(size for _, size in self.known.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.apart:
                self.known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, self.bytes())
        return out
