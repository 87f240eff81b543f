"""A tiny model trained with its discriminator kept."""

import pytest

from diffcse.presets import build
from diffcse.training.train import train
from tests import tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    tiny.save(tiny.mlm("bert", seed=0), place / "encoder")
    tiny.save(tiny.mlm("distilbert"), place / "generator")
    text = tiny.write_sentences(place / "text.txt", 64)
    settings = {"batch_size": 8, "max_steps": 12, "learning_rate": 3e-3, "mask_ratio": 0.4, "max_tokens": 16}
    networks = {"encoder": str(place / "encoder"), "generator": str(place / "generator")}
    config = build(**settings, **networks, keep_discriminator=True)
    train([text], place / "model", config, cache_dir=place / "cache")
    return place / "model"
