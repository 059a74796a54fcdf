"""What our CUDA kernels compute, by torch's operators: what they are compared with; without a GPU, their stand-in."""

import torch
import torch.nn.functional as F
from ams_pod.engines.builtin.model.cuda.kernels import Heads, RowPlaces, TokenPlaces
from torch import Tensor


class TorchKernels:
    def __init__(self, heads: Heads) -> None:
        self.heads = heads

    def add_and_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        if added is not None:
            x.add_(added)
        return F.rms_norm(x, (x.shape[-1],), weight, epsilon)

    def silu_and_multiply(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up

    def turn_and_store(self, qkv, turns, norms, epsilon, cache, places: TokenPlaces) -> None:
        heads, size, half = self.heads, self.heads.size, cache.shape[0] // 2
        for first, last, weight in (
            (0, heads.queries, norms and norms[0]),
            (heads.queries, heads.queries + heads.keys, norms and norms[1]),
        ):
            x = qkv[:, first:last]
            if weight is not None:
                x = F.rms_norm(x, (size,), weight, epsilon)
            turned = torch.cat((x[..., size // 2 :], x[..., : size // 2]), -1)
            qkv[:, first:last] = x * turns[0] + turned * turns[1]
        for token, (where, stride) in enumerate(zip(places.where.tolist(), places.stride.tolist(), strict=True)):
            for head in range(heads.keys if where >= 0 else 0):
                cache[where + head * stride] = qkv[token, heads.queries + head]
                cache[half + where + head * stride] = qkv[token, heads.queries + heads.keys + head]

    def attend(self, qkv: Tensor, cache: Tensor, rows: RowPlaces) -> Tensor:
        heads, half = self.heads, cache.shape[0] // 2
        result = torch.zeros(len(rows.start), heads.queries, heads.size, dtype=qkv.dtype, device=qkv.device)
        table = zip(rows.start.tolist(), rows.capacity.tolist(), rows.length.tolist(), strict=True)
        for row, (start, capacity, length) in enumerate(table):
            for query in range(heads.queries if length else 0):
                first = start + query // (heads.queries // heads.keys) * capacity
                keys, values = cache[first : first + length], cache[half + first : half + first + length]
                scores = (keys.float() @ qkv[row, query].float()) * heads.size**-0.5
                result[row, query] = (scores.softmax(-1) @ values.float()).to(qkv.dtype)
        return result.view(len(rows.start), -1)
