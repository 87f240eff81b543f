"""A WordPiece tokenizer learnt from plain text, for any script."""

from __future__ import annotations

import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer

from diffcse.files import replace_folder
from diffcse.pretraining.config import PretrainConfig

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ALPHABET = 400
"""Characters that are enough for an alphabet; scripts of thousands of characters need more."""
_COVERED = 0.9995
"""Share of the text's characters that they must make up, not to need more."""
_MANY_UNKNOWN = 0.01


def train_tokenizer(
    sentences: Sequence[str], config: PretrainConfig, held_out: Sequence[str] = ()
) -> tuple[BertTokenizer, str]:
    """A tokenizer like bert-base-uncased's, learnt from `sentences`, and what the user should know about it.

    Args:
        sentences: plain text.
        config: size, case and accents.
        held_out: text whose characters, but not words, are known as well.
    """
    # What bert-base-uncased does is said by None; the saved tokenizer stays as it always was.
    accents = None if config.strip_accents == config.lowercase else config.strip_accents
    pieces = BertWordPieceTokenizer(lowercase=config.lowercase, strip_accents=accents)
    letters: Counter[str] = Counter()
    for sentence in (*held_out, *sentences):
        letters.update(pieces.normalizer.normalize_str(sentence))
    more = _more_letters(letters, config.vocab_size)
    pieces.train_from_iterator(
        sentences,
        vocab_size=config.vocab_size,
        limit_alphabet=max(_ALPHABET, len(more)),
        initial_alphabet=more,
        special_tokens=_SPECIAL,
        show_progress=False,
    )
    tokenizer = BertTokenizer(vocab=pieces.get_vocab(), do_lower_case=config.lowercase, strip_accents=accents)
    return tokenizer, _lost_marks([*held_out, *sentences], config)


def own_tokenizer(
    folder: Path, sentences: Sequence[str], config: PretrainConfig, held_out: Sequence[str]
) -> tuple[BertTokenizer, str]:
    """The run's tokenizer, learnt once: training breaks ties at random, so a resumed run must not repeat it."""
    note = ""
    if not (folder / "tokenizer.json").is_file():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        tokenizer, note = train_tokenizer(sentences, config, held_out)
        tokenizer.save_pretrained(part)
        replace_folder(part, folder)
    return BertTokenizer.from_pretrained(folder), note


def unknown_note(counts: NDArray[np.int64], tokenizer: Any) -> str:
    """How much of a text the tokenizer cannot read; empty for one that reads everything.

    Args:
        counts: how often each token occurs in the text, (V,).
        tokenizer: gives the id of the unknown token.
    """
    if tokenizer.unk_token_id is None:  # it reads bytes
        return ""
    around = {tokenizer.cls_token_id, tokenizer.sep_token_id} - {None}
    total = int(counts.sum() - counts[sorted(around)].sum())
    share = float(counts[tokenizer.unk_token_id]) / max(1, total)
    note = f"{100 * share:.2f}% of the tokens are unknown"
    if share > _MANY_UNKNOWN:
        note += ": a larger --vocab-size in pretrain, or a tokenizer for this language, reads more of the text"
    return note


def _more_letters(letters: Counter[str], vocab_size: int) -> list[str]:
    """The characters to put into the vocabulary, most frequent first; none where `_ALPHABET` are enough."""
    kinds = sorted((letter for letter in letters if not letter.isspace()), key=lambda kind: (-letters[kind], kind))
    total, covered = sum(letters[kind] for kind in kinds), sum(letters[kind] for kind in kinds[:_ALPHABET])
    return [] if covered >= _COVERED * total else kinds[: vocab_size // 2]


def _lost_marks(sentences: Sequence[str], config: PretrainConfig) -> str:
    """A warning where removing accents removes vowels, as in Thai, Hindi or Japanese."""
    if not config.strip_accents:
        return ""
    letters: Counter[str] = Counter()
    for sentence in sentences:
        letters.update(unicodedata.normalize("NFD", sentence) if not sentence.isascii() else "")
    # The marks of Latin, Greek and Cyrillic letters are U+0300 to U+036F.
    lost = sum(
        n for kind, n in letters.items() if unicodedata.category(kind) == "Mn" and not "\u0300" <= kind <= "\u036f"
    )
    if lost <= _MANY_UNKNOWN * max(1, sum(letters.values())):
        return ""
    return "the text has vowel or voicing marks, which --strip-accents removes: use --no-strip-accents"
