"""Key-value cache and attention for batched decoding: nothing is copied that need not be.

transformers' dynamic cache concatenates, and so copies, the whole cache for every new token, and its attention
copies each key-value head once for every query head that shares it as soon as there is a mask. On a CPU, where
memory is the narrow place, both cost as much as the model itself. The results are the same numbers.
"""

from __future__ import annotations

import copy

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "phoenix_decoding"
# Positions added to the buffer when it is full.
STEP = 64


class BufferedLayer(DynamicLayer):
    """One layer's keys and values in a buffer with room to grow; `keys` and `values` are views of its used part.

    All layers keep the whole sequence; a sliding window is the attention mask's business, as it is for
    transformers' own full layers.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append states of shape (batch, heads, new, head_dim); returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        room = getattr(self, "buffer", None)
        if used == 0 or room is None or room.shape[-2] < end or room.shape[1] != len(key_states):
            batch, heads, _, width = key_states.shape
            buffer = key_states.new_empty(2, batch, heads, end + STEP, width)
            if used:
                buffer[0, :, :, :used], buffer[1, :, :, :used] = self.keys, self.values
            self.buffer = buffer
        self.buffer[0, :, :, used:end] = key_states
        self.buffer[1, :, :, used:end] = value_states
        self.keys, self.values = self.buffer[0, :, :, :end], self.buffer[1, :, :, :end]
        return self.keys, self.values

    @classmethod
    def filled(cls, buffer: torch.Tensor, used: int) -> BufferedLayer:
        """A layer whose buffer (2, batch, heads, room, head_dim) holds so many positions already."""
        layer = cls()
        layer.lazy_initialization(buffer[0], buffer[1])
        layer.buffer = buffer
        layer.keys, layer.values = buffer[0, :, :, :used], buffer[1, :, :, :used]
        return layer


def new_cache() -> Cache:
    """An empty cache of buffered layers."""
    return Cache(layer_class_to_replicate=BufferedLayer)


def repeated(cache: Cache, rows: int) -> Cache:
    """A copy of the cache of one row for so many rows."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


def joined(caches: list[Cache], skip: int) -> Cache:
    """One cache of all rows. The first `skip` positions stay in front and the rest ends where the longest ends.

    What lies between is zero and has to be masked. The given caches are taken apart layer by layer, so that the
    whole is never held twice.
    """
    if len(caches) == 1:
        return caches[0]
    whole = new_cache()
    length = max(cache.get_seq_length() for cache in caches)
    for number in range(len(caches[0].layers)):
        layers = [cache.layers[number] for cache in caches]
        _, heads, _, size = layers[0].keys.shape
        buffer = layers[0].keys.new_zeros(2, sum(len(layer.keys) for layer in layers), heads, length + STEP, size)
        first = 0
        for layer, cache in zip(layers, caches, strict=True):
            rows = slice(first, first + len(layer.keys))
            own = layer.keys.shape[2] - skip
            for side, states in enumerate((layer.keys, layer.values)):
                buffer[side, rows, :, :skip] = states[:, :, :skip]
                buffer[side, rows, :, length - own : length] = states[:, :, skip:]
            first = rows.stop
            cache.layers[number] = None
        whole.layers.append(BufferedLayer.filled(buffer, length))
    return whole


def grouped_attention(module, query, key, value, attention_mask, **kwargs):
    """Scaled dot-product attention; for a single new token, query heads that share a key-value head go together.

    With one query position, the G heads of a group are G independent queries to the same keys, so
    (batch, heads, 1, d) is read as (batch, kv_heads, G, d) and no key is repeated (grouped-query attention,
    Ainslie et al. 2023).
    """
    groups = getattr(module, "num_key_value_groups", 1)
    plain = not kwargs.get("position_bias") and not kwargs.get("cache") and not kwargs.get("dropout")
    if query.shape[2] != 1 or groups == 1 or not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    batch, heads, _, width = query.shape
    grouped = query.view(batch, heads // groups, groups, width)
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[-2]]
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return out.reshape(batch, 1, heads, width), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
