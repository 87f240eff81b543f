"""A prompt around the sentence: in the tokenizer, in the saved folder, and never edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from diffcse.config import EditConfig, ViewConfig
from diffcse.encoding.encode import Encoder
from diffcse.errors import UserError
from diffcse.method.prompt import Prompt, prompted
from diffcse.persistence.load import load_encoder
from diffcse.presets import build
from diffcse.training.batches import Collator
from diffcse.training.train import train
from tests import tiny

PROMPT = 'the "{sentence}" is a [MASK]'
TEXT = ["the dog runs", "a cat", "the man is in the park and a woman runs"]


def words(tokens: Any, ids: Any) -> str:
    return " ".join(tokens.convert_ids_to_tokens(ids))


def test_the_prompt_stands_around_every_sentence_and_the_tokenizer_stays_as_it_was() -> None:
    plain = tiny.tokenizer()
    before = plain("the dog")["input_ids"]
    tokens = prompted(plain, "the {sentence} is a [MASK]")
    own = plain(TEXT, add_special_tokens=False)["input_ids"]
    the, after = plain.convert_tokens_to_ids("the"), plain("is a", add_special_tokens=False)["input_ids"]
    expected = [[plain.cls_token_id, the, *ids, *after, plain.mask_token_id] for ids in own]
    assert tokens(TEXT)["input_ids"] == expected
    assert plain("the dog")["input_ids"] == before
    assert Prompt.of(plain) is None
    assert Prompt.of(tokens) == Prompt(before=2, after=3 if len(after) == 2 else 1 + len(after))
    cut = tokens(TEXT[2], truncation=True, max_length=8)["input_ids"]
    assert len(cut) == 8 and cut[-1] == plain.mask_token_id and cut[:2] == expected[2][:2]


def test_a_prompt_may_stand_on_one_side_only() -> None:
    tokens = prompted(tiny.tokenizer(), "{sentence} is [MASK]")
    assert words(tokens, tokens("dog")["input_ids"]).startswith("[CLS] ")
    results = Prompt.of(tokens)
    assert results is not None and results.before == 1


def test_a_byte_level_tokenizer_keeps_its_prompt_through_saving(tmp_path: Path) -> None:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(tiny.SENTENCES, vocab_size=300, special_tokens=["<s>", "</s>", "<pad>", "<unk>", "<mask>"])
    names = {"cls": "<s>", "bos": "<s>", "sep": "</s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    specials = {f"{name}_token": token for name, token in names.items()}
    plain = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=64, **specials)
    tokens = prompted(plain, 'This : "{sentence}" means [MASK]')
    tokens.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokens("The bird")["input_ids"]
    assert again("The bird")["input_ids"] == ids
    assert (ids[0], ids[-1]) == (plain.cls_token_id, plain.mask_token_id)
    assert tokens.decode(ids[1:-1]) == 'This : "The bird" means '
    assert (again.mask_token, again.pad_token, again.model_max_length) == ("<mask>", "<pad>", 64)


@pytest.mark.parametrize("edit", ["replacement", "insertion", "deletion", "all"])
@pytest.mark.parametrize("view", ["dropout", "repetition", "cropping", "deletion", "shuffling"])
def test_views_and_edits_leave_the_prompt_alone(edit: Any, view: Any) -> None:
    tokens = prompted(tiny.tokenizer(), PROMPT)
    prompt = Prompt.of(tokens)
    assert prompt is not None
    rows = [(0, i, [np.array(ids)]) for i, ids in enumerate(tokens([*tiny.SENTENCES, ""])["input_ids"])]
    collate = Collator(tokens, EditConfig(edit=edit, mask_ratio=0.9), 3, ViewConfig(view=view, view_ratio=0.9))
    batch = {name: value.numpy() for name, value in collate(rows).items()}
    changed = 0
    for i, (_, _, [ids]) in enumerate(rows):
        ends = ids[: prompt.before].tolist(), ids[len(ids) - prompt.after :].tolist()
        for j in range(2):
            seen = batch["input_ids"][i, j][batch["attention_mask"][i, j] == 1]
            length = int(batch["draft_mask"][i, j].sum()) if "draft_mask" in batch else len(seen)
            draft, chosen = batch["masked_ids"][i, j, :length], batch["chosen"][i, j, :length]
            for got in (seen, draft):
                assert (got[: prompt.before].tolist(), got[len(got) - prompt.after :].tolist()) == ends
            assert not chosen[: prompt.before].any() and not chosen[length - prompt.after :].any()
            changed += draft.tolist() != seen.tolist()
    assert changed >= len(tiny.SENTENCES)  # it is the sentences that are edited


def test_training_with_a_prompt_saves_a_folder_that_needs_no_code_of_ours(tmp_path: Path) -> None:
    start = tiny.save(tiny.encoder(), tmp_path / "start")
    generator = tiny.save(tiny.mlm(), tmp_path / "generator")
    text = tiny.write_sentences(tmp_path / "text.txt", 32)
    config = build(
        encoder=start, generator=generator, pooler="last", prompt=PROMPT, batch_size=8, max_steps=3, epochs=9.0
    )
    result = train([text], tmp_path / "model", config)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    ids = model.tokenizer("dog")["input_ids"]
    assert ids == prompted(tiny.tokenizer(), PROMPT)("dog")["input_ids"]
    assert result.finished
    theirs = model.encode(TEXT)
    ours = Encoder(load_encoder(tmp_path / "model")).encode(TEXT)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    batch = model.tokenizer(TEXT, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model[0].model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    masks = batch["input_ids"] == model.tokenizer.mask_token_id
    assert masks.sum(1).tolist() == [1, 1, 1]
    np.testing.assert_allclose(theirs, hidden[masks].numpy(), atol=1e-5)  # the vector of [MASK]
    resumed = train([text], tmp_path / "on", build(encoder=str(tmp_path / "model"), generator=generator,
                    pooler="last", batch_size=8, max_steps=1, epochs=9.0))  # fmt: skip
    assert resumed.finished


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "no place"}, "prompt must be text with {sentence} in it once"),
        ({"prompt": "{sentence} {sentence}"}, "prompt must be text with {sentence} in it once"),
        ({"prompt": "{sentence} ends.", "pooler": "last"}, "prompt must be one that ends in [MASK] with pooler last"),
    ],
)
def test_prompts_that_can_not_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        build(**settings)
    assert said in str(error.value)
