"""Other people's tools read a model folder as it is, and give its vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from diffcse import DiffCSE
from diffcse.persistence.load import fingerprint, load_encoder
from diffcse.persistence.save import save_folder
from diffcse.resources import bundled
from tests import tiny


def saved(folder: Path, family: str = "bert", pooler: str = "avg") -> Path:
    """A folder as training leaves it."""
    folder.mkdir()
    plain = tiny.save(tiny.encoder(family), folder.with_name(f"{folder.name}-plain"))
    save_folder(load_encoder(plain, pooler=pooler), folder, {})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def vectors(folder):
    """By plain transformers: the mean over real tokens of the last layer."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(tiny.SENTENCES, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    return ((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).detach().numpy()


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("pooler", "key"), [("cls", "pooling_mode_cls_token"), ("avg", "pooling_mode_mean_tokens")])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_what_text_embeddings_inference_and_vllm_look_for(tmp_path, family, pooler, key):
    folder = saved(tmp_path / "model", family, pooler)
    config = read(folder / "config.json")
    assert config["architectures"] == [type(tiny.encoder(family)).__name__]
    assert {"model_type", "max_position_embeddings", "hidden_size", "num_hidden_layers"} <= set(config)
    assert (folder / "tokenizer.json").is_file()
    pooling = read(folder / "1_Pooling" / "config.json")
    needed = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    assert all(isinstance(pooling[f"pooling_mode_{name}"], bool) for name in needed)
    assert [name for name, value in pooling.items() if value is True] == [key, "include_prompt"]
    types = [module["type"] for module in read(folder / "modules.json")]
    assert types == ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    assert read(folder / "sentence_bert_config.json")["max_seq_length"] == load_encoder(folder).max_seq_length
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert all(
            name.startswith(("embeddings.", "encoder.", "layers.", "pooler.", "final_norm")) for name in file.keys()
        )


@pytest.mark.parametrize("pooler", ["cls", "avg", "avg_top2"])
def test_the_form_of_the_files_changes_nothing(tmp_path, pooler):
    model = load_encoder(tiny.save(tiny.encoder(), tmp_path / "plain"), pooler=pooler)
    (tmp_path / "model").mkdir()
    save_folder(model, tmp_path / "model", {})
    assert fingerprint(load_encoder(tmp_path / "model")) == fingerprint(model)


def test_a_mean_of_layers_is_not_given_away_as_a_mean_of_tokens(tmp_path):
    folder = saved(tmp_path / "model", pooler="avg_first_last")
    assert not (folder / "1_Pooling").exists()
    assert "sentence_transformers.models.Pooling" not in (folder / "modules.json").read_text()


def test_sentence_transformers_and_datasets(folder, vectors):
    model = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(model.encode(tiny.SENTENCES, show_progress_bar=False), vectors, atol=1e-5)
    ours = DiffCSE(folder, device="cpu")
    rows = Dataset.from_dict({"text": tiny.SENTENCES}).map(
        lambda batch: {"vector": ours.encode(batch["text"], return_numpy=True, normalize_to_unit=False)},
        batched=True,
        batch_size=3,
        new_fingerprint="vectors",
    )
    np.testing.assert_allclose(np.array(rows["vector"]), vectors, atol=1e-5)


def test_langchain(folder, vectors):
    langchain = pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")
    embeddings = langchain.HuggingFaceEmbeddings(model_name=str(folder), model_kwargs={"device": "cpu"})
    np.testing.assert_allclose(embeddings.embed_documents(tiny.SENTENCES), vectors, atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(tiny.SENTENCES[2]), vectors[2], atol=1e-5)


def test_llama_index(folder, vectors):
    llama_index = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="needs llama-index-embeddings-huggingface"
    )
    embedding = llama_index.HuggingFaceEmbedding(model_name=str(folder), device="cpu", normalize=False)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(tiny.SENTENCES), vectors, atol=1e-5)


def test_mteb(folder, vectors):
    mteb = pytest.importorskip("mteb", reason="needs mteb")
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.types import PromptType

    model = SentenceTransformerEncoderWrapper(SentenceTransformer(str(folder), device="cpu"))
    assert isinstance(model, mteb.EncoderProtocol)
    batches = DataLoader(Dataset.from_dict({"text": tiny.SENTENCES}), batch_size=5)
    task = mteb.get_task("STSBenchmark").metadata
    encoded = model.encode(
        batches, task_metadata=task, hf_split="test", hf_subset="default", prompt_type=PromptType.query
    )
    np.testing.assert_allclose(encoded, vectors, atol=1e-5)


def test_bundled_models_hold_nothing_but_safe_weights_and_text():
    files = [path for path in bundled().parent.glob("*/**/*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".md", ".safetensors", ".txt"}
    assert bundled() / "model.safetensors" in files
