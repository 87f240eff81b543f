"""The models that come with the package: small enough, made for each other, loadable without code of ours."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import BertForMaskedLM

from diffcse.persistence.hub import locate
from diffcse.presets import build
from diffcse.resources import DEFAULT_ENCODER, GENERATOR, bundled
from diffcse.training.networks import load_networks


def test_all_weights_together_are_under_25_megabytes():
    files = list(bundled().parent.rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {DEFAULT_ENCODER, GENERATOR}
    assert sum(file.stat().st_size for file in files) < 25_000_000
    for resource in (DEFAULT_ENCODER, GENERATOR):
        assert (bundled(resource) / "README.md").read_text().startswith("---\n")


def test_bundled_means_the_encoder_or_the_generator():
    assert locate("bundled").name == locate(None).name == "default_encoder"
    assert locate("bundled", resource=GENERATOR).name == "generator"


def test_preset_small_starts_from_them():
    networks = load_networks(build(preset="small"))
    assert isinstance(networks.generator, BertForMaskedLM)
    assert networks.generator.config.vocab_size == len(networks.tokenizer)
    assert networks.transformer.model.config.hidden_size != networks.generator.config.hidden_size


def test_default_encoder_is_a_plain_sentence_transformer_that_tells_like_from_unlike():
    model = SentenceTransformer(str(bundled()), device="cpu")
    vectors = model.encode(
        ["A dog runs over the grass.", "A dog is running on grass.", "Interest rates rose again in March."],
        normalize_embeddings=True,
    )
    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert np.isfinite(vectors).all()
    assert alike > 0.6
    assert unlike < 0.2


@pytest.mark.parametrize("text", ["", "a", "word " * 500])
def test_any_text_gets_a_finite_vector(text):
    vector = SentenceTransformer(str(bundled()), device="cpu").encode(text)
    assert np.isfinite(vector).all()
