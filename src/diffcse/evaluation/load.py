"""Any sentence encoder, loaded for evaluation."""

from __future__ import annotations

from diffcse.config import Pooler
from diffcse.encoding.backends import as_device
from diffcse.encoding.encode import Encoder
from diffcse.persistence import load as checkpoints


def load_encoder(
    model: str, *, pooler: Pooler | None = None, device: str | None = None, trust_remote_code: bool = False
) -> Encoder:
    """Load an encoder by folder or Hub name, or the one of the package by the name `bundled`.

    A SentenceTransformer is taken as it is. With `pooler`, or where there is no SentenceTransformer, it is the plain
    Transformer and that pooler (cls by default, as the paper evaluates: [CLS] of the last layer before any projector).

    Args:
        model: what to load.
        pooler: cls, avg, avg_top2, avg_first_last or last; None keeps the model's own.
        device: where to compute; None for a GPU if there is one.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: no such model, incomplete weights, or not a text encoder.
    """
    target = as_device(device)
    return Encoder(checkpoints.load_encoder(model, pooler=pooler, trust_remote_code=trust_remote_code).to(target))
