"""Small models of the families that people start from, saved as they publish them, with random weights made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertJapaneseTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tests import tiny
from tests.persistence.test_load import published

Save = Callable[[Path], None]
"""Writes a model into a new folder."""

WIDTH = 32
SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}

_SPECIALS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


def sentencepiece() -> PreTrainedTokenizerFast:
    """A unigram vocabulary with marks for blanks, as XLM-R, T5 and DeBERTa-v3 have."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return _trained(made, trainers.UnigramTrainer, {"unk_token": "<unk>"})


def byte_level(**settings: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as RoBERTa, GPT and Qwen have."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(made, trainers.BpeTrainer, {"initial_alphabet": alphabet}, **settings)


def _trained(made: Tokenizer, trainer: Any, more: dict[str, Any], **settings: Any) -> PreTrainedTokenizerFast:
    specials = list(_SPECIALS.values())
    made.train_from_iterator(tiny.SENTENCES * 4, trainer(vocab_size=300, special_tokens=specials, **more))
    ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **_SPECIALS, **settings)


def decoders_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that ends each text, padded on the left, as embedding models on decoders have."""
    made = byte_level(padding_side="left")
    ends = [("</s>", made.convert_tokens_to_ids("</s>"))]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ends)
    return made


def backbone(family: str, tokenizer: Any, **changes: Any) -> torch.nn.Module:
    """A network of 2 layers and width 32 on that tokenizer's vocabulary."""
    special = {"pad_token_id": tokenizer.pad_token_id}
    special |= dict.fromkeys(("bos_token_id", "cls_token_id"), tokenizer.cls_token_id)
    special |= dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id)
    torch.manual_seed(0)
    settings = {**SIZE, **tiny.FAMILIES.get(family, {}), **special, "vocab_size": len(tokenizer), **changes}
    return tiny._louder(AutoModel.from_config(AutoConfig.for_model(family, **settings)))


def plain(folder: Path, network: torch.nn.Module, tokenizer: Any) -> None:
    """A folder of transformers, without pooling."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def saved(folder: Path, modules: list[Any], **settings: Any) -> None:
    """A folder of sentence-transformers."""
    SentenceTransformer(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)


def pooled(
    family: str, mode: Any, *modules: Any, tokenizer: Callable[[], Any] = tiny.tokenizer, **settings: Any
) -> Save:
    """What saves a Transformer with that pooling and further modules.

    `settings` are the SentenceTransformer's (prompts and the like) and, under `network`, the configuration's.
    """

    def save(folder: Path) -> None:
        words, changes = tokenizer(), settings.get("network", {})
        beside = folder.with_name(f"{folder.name}-plain")
        plain(beside, backbone(family, words, **changes), words)
        more = {name: value for name, value in settings.items() if name != "network"}
        saved(folder, [Transformer(str(beside)), Pooling(WIDTH, pooling_mode=mode), *modules], **more)

    return save


def old(version: int) -> Save:
    """The layout in which that version of sentence-transformers saved BERT with a mean and Normalize."""

    def save(folder: Path) -> None:
        pooled("bert", "mean", Normalize())(folder)
        root = folder / "0_Transformer" if version == 1 else folder
        if version == 1:  # the Transformer in a folder of its own
            files = [path for path in folder.iterdir() if path.is_file()]
            root.mkdir()
            for path in files:
                path.rename(root / path.name)
        if version <= 2:  # weights as a pickle of tensors, the vocabulary as a list of words
            torch.save(load_file(root / "model.safetensors"), root / "pytorch_model.bin")
            (root / "vocab.txt").write_text("\n".join(tiny.VOCABULARY))
            write(root / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
            (root / "model.safetensors").unlink()
            (root / "tokenizer.json").unlink()
        for path, content in _settings(version).items():
            write((root if path.startswith("sentence_bert") else folder) / path, content)

    return save


def _settings(version: int) -> dict[str, Any]:
    """The small files of that layout."""
    kinds = {"Transformer": "0_Transformer" if version == 1 else "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    types = {f"sentence_transformers.models.{kind}": path for kind, path in kinds.items()}
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]
    about: dict[str, Any] = {"__version__": {"sentence_transformers": f"{version}.0.0"}}
    pooling: dict[str, Any] = {"word_embedding_dimension": WIDTH}
    if version >= 3:
        modes += ["weightedmean_tokens", "lasttoken"]
        pooling |= {"include_prompt": True}
        about |= {"prompts": {"query": "find: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if version >= 5:
        about |= {"model_type": "SentenceTransformer", "prompts": {"query": "find: ", "document": ""}}
    rows = enumerate(types.items())
    return {
        "modules.json": [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in rows],
        "1_Pooling/config.json": pooling | {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes},
        "sentence_bert_config.json": {"max_seq_length": 60, "do_lower_case": False},
        "config_sentence_transformers.json": about,
    }


def write(path: Path, content: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(content))


def _authors(folder: Path) -> None:
    published(folder, "bert", backbone("bert", tiny.tokenizer()), file="model.safetensors")


def _lora(folder: Path, *, merged: bool) -> None:
    words = tiny.tokenizer()
    network: Any = backbone("bert", words)
    query = network.encoder.layer[0].attention.self.query.weight
    down, up = torch.randn(4, WIDTH), torch.randn(WIDTH, 4)
    query.data += up @ down if merged else 0
    plain(folder, network, words)
    saved(folder, [Transformer(str(folder)), Pooling(WIDTH, pooling_mode="mean")])
    if not merged:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
        write(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "bert-base-uncased"})
        layer = "base_model.model.encoder.layer.0.attention.self.query"
        save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, folder / "adapter_model.safetensors")


def _japanese(folder: Path) -> None:
    """A tokenizer that has no fast form."""
    characters = sorted(set("".join(JAPANESE)))
    words = [*tiny.SPECIAL, *characters, *(f"##{each}" for each in characters)]
    (folder.parent / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    how = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}
    tokenizer = BertJapaneseTokenizer(str(folder.parent / "vocab.txt"), **how)
    beside = folder.with_name(f"{folder.name}-plain")
    plain(beside, backbone("bert", tokenizer), tokenizer)
    saved(folder, [Transformer(str(beside)), Pooling(WIDTH, pooling_mode="mean")])


_T5 = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}


def _byt5(folder: Path) -> None:
    torch.manual_seed(0)
    plain(folder, T5EncoderModel(T5Config(vocab_size=384, **_T5)), ByT5Tokenizer())


def _static(folder: Path) -> None:
    saved(folder, [StaticEmbedding(tiny.tokenizer(), embedding_dim=16), Normalize()])


def _model2vec(folder: Path) -> None:
    folder.mkdir()
    tokenizer = tiny.tokenizer().backend_tokenizer
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": torch.randn(tokenizer.get_vocab_size(), 16)}, folder / "model.safetensors")
    write(folder / "config.json", {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": False})
    static = "sentence_transformers.models.StaticEmbedding"
    write(folder / "modules.json", [{"idx": 0, "name": "0", "path": ".", "type": static}])


def _words(folder: Path) -> None:
    tokenizer = WhitespaceTokenizer(vocab=tiny.WORDS, stop_words=["the"], do_lower_case=True)
    saved(folder, [WordEmbeddings(tokenizer, torch.randn(len(tiny.WORDS), 16)), Pooling(16, pooling_mode="mean")])


def _dense(width: int = 16, activation: torch.nn.Module | None = None, inside: int = WIDTH) -> Dense:
    torch.manual_seed(0)
    return Dense(inside, width, bias=activation is not None, activation_function=activation)


JAPANESE = ["猫が好きです。", "犬は走る。", "今日は雨の天気。", "日本語の文字。"]
_BGE = {"prompts": {"query": "Represent this sentence for searching relevant passages: "}}
_E5 = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "document"}
_QWEN = {"prompts": {"query": "Instruct: find\nQuery:"}, "network": {"num_key_value_heads": 1, "head_dim": 16}}
_GPT = {"network": {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64}}
_DISTIL = {"network": {"dim": WIDTH, "n_layers": 2, "hidden_dim": 64}}

TRAINED: dict[str, Save] = {
    "MiniLM": pooled("bert", "mean", Normalize()),
    "MPNet": pooled("mpnet", "mean", Normalize()),
    "BGE": pooled("bert", "cls", Normalize(), **_BGE),
    "E5": pooled("bert", "mean", Normalize(), **_E5),
    "GTE (ModernBERT)": pooled("modernbert", "cls", tokenizer=byte_level),
    "XLM-R": pooled("xlm-roberta", "mean", tokenizer=sentencepiece),
    "RoBERTa": pooled("roberta", "mean", tokenizer=byte_level),
    "DistilBERT": pooled("distilbert", "mean", **_DISTIL),
    "DeBERTa-v3": pooled("deberta-v2", "mean", tokenizer=sentencepiece),
    "ELECTRA": pooled("electra", "cls", network={"embedding_size": 16}),
    "Japanese, no fast tokenizer": _japanese,
    "T5": pooled("t5", "mean", tokenizer=sentencepiece, network=_T5),
    "ByT5": _byt5,
    "GPT-2": pooled("gpt2", "lasttoken", tokenizer=decoders_tokenizer, **_GPT),
    "Qwen3-Embedding": pooled("qwen3", "lasttoken", Normalize(), tokenizer=decoders_tokenizer, **_QWEN),
    "Dense": pooled("bert", "mean", _dense()),
    "LaBSE": pooled("bert", "cls", _dense(WIDTH, torch.nn.Tanh()), Normalize()),
    "EmbeddingGemma": pooled("bert", "mean", _dense(48), _dense(WIDTH, inside=48), Normalize()),
    "sentence-T5": pooled("t5", "mean", _dense(), Normalize(), tokenizer=sentencepiece, network=_T5),
    "LoRA, merged": partial(_lora, merged=True),
    "the authors' training state": _authors,
    **{f"sentence-transformers {version}": old(version) for version in (1, 2, 3, 5)},
}
"""Families that train; sentence-transformers 6 saves all those that name no other version."""

REFUSED: dict[str, tuple[Save, str]] = {
    "StaticEmbedding": (
        _static,
        "got StaticEmbedding, Normalize; start from a Transformer; encode, evaluate",
    ),
    "model2vec": (_model2vec, "got StaticEmbedding; start from a Transformer"),
    "word vectors": (_words, "got WordEmbeddings, Pooling .mean.; start from a Transformer"),
    "Dense behind Normalize": (
        pooled("bert", "mean", Normalize(), _dense()),
        "Pooling, Normalize, Dense .mean.; start from the Transformer that",
    ),
    "max": (pooled("bert", "max"), "got Transformer, Pooling .max.; name the pooler to train with"),
    "weighted mean": (pooled("bert", "weightedmean"), "Pooling .weightedmean.; name the pooler"),
    "square root": (pooled("bert", "mean_sqrt_len_tokens"), "Pooling .mean_sqrt_len_tokens.; name the pooler"),
    "two poolings": (pooled("bert", ("cls", "mean")), "Pooling .cls and mean.; name the pooler"),
}
"""Families that encode and are not trained, and why."""
