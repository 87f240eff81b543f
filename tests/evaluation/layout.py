"""Writes SentEval's folder layout with invented sentences, all 14 tasks, at the official sizes or smaller ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from diffcse.evaluation import senteval
from diffcse.evaluation.tasks import ALL_TASKS

WORDS = "the a dog cat runs sleeps on under red café table naïve moon über water plays not very old man".split()
GOOD, BAD = "good", "bad"


class Layout:
    """A folder that is filled task by task.

    Args:
        root: SentEval's data folder to be.
        at_most: rows a file has at most; None writes the official number.
    """

    def __init__(self, root: Path, at_most: int | None = None) -> None:
        self.root, self.at_most, self.random = root, at_most, random.Random(0)
        (root / "downstream").mkdir(parents=True, exist_ok=True)

    def write(self, *names: str) -> Layout:
        for name in names or ALL_TASKS:
            writers: dict[str, Callable[[str], None]] = {
                "STSBenchmark": self._stsb,
                "SICKRelatedness": self._sick,
                "SST2": self._sst2,
                "TREC": self._trec,
                "MRPC": self._mrpc,
                **dict.fromkeys(("MR", "CR", "MPQA", "SUBJ"), self._two_classes),
            }
            writers.get(name, self._sts)(name)
        return self

    def path(self, *parts: str) -> Path:
        return self.root.joinpath("downstream", *parts)

    def sentence(self, extra: str = "") -> str:
        words = self.random.choices(WORDS, k=self.random.randint(3, 9))
        return " ".join([*words, extra]).strip()

    def _rows(self, official: int) -> int:
        return official if self.at_most is None else min(official, self.at_most)

    def _save(self, path: Path, lines: list[str], encoding: str = "utf-8") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))

    def _pair(self) -> tuple[str, str, float]:
        """Two sentences that share the more words, the higher their score."""
        first = self.sentence().split()
        kept = self.random.random()
        second = [word if self.random.random() < kept else self.random.choice(WORDS) for word in first]
        return " ".join(first), " ".join(second), round(5 * kept, 3)

    def _sts(self, name: str) -> None:
        for subset, official in senteval.STS_SUBSETS[name].items():
            pairs, scores = [], []
            for i in range(self._rows(official)):
                first, second, score = self._pair()
                pairs.append(f"{first}\t{second}")
                scores.append(str(score))
                if name in ("STS15", "STS16") and i % 7 == 0:  # pairs that nobody scored
                    pairs.append(f"{self.sentence()}\t{self.sentence()}")
                    scores.append("")
            folder = self.path("STS", f"{name}-en-test")
            self._save(folder / f"STS.input.{subset}.txt", pairs)
            self._save(folder / f"STS.gs.{subset}.txt", scores)

    def _stsb(self, name: str) -> None:
        for split, official in senteval.STSB_ROWS.items():
            lines = []
            for i in range(self._rows(official)):
                first, second, score = self._pair()
                more = "\tsource\tmore" if i % 3 == 0 else ""
                quote = '"' if i % 5 == 0 else ""  # an opening quote that is never closed
                lines.append(f"main-news\tfile\t2012\t{i:04d}\t{score}\t{quote}{first}\t{second}{more}")
            self._save(self.path("STS", "STSBenchmark", f"sts-{split}.csv"), lines)

    def _sick(self, name: str) -> None:
        for file, official in senteval.SICK_FILES.values():
            lines = ["pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"]
            for i in range(self._rows(official)):
                first, second, score = self._pair()
                lines.append(f"{i}\t{first}\t{second}\t{1 + 0.8 * score:.3f}\tNEUTRAL")
            self._save(self.path("SICK", file), lines)

    def _two_classes(self, name: str) -> None:
        for word, (file, official) in zip((GOOD, BAD), senteval.TWO_CLASS_FILES[name], strict=True):
            lines = [self.sentence(self._noisy(word)) for _ in range(self._rows(official))]
            self._save(self.path(name, file), lines, "latin-1")

    def _noisy(self, word: str) -> str:
        return word if self.random.random() < 0.9 else self.random.choice((GOOD, BAD))

    def _sst2(self, name: str) -> None:
        for split, official in senteval.SST2_ROWS.items():
            lines = []
            for i in range(self._rows(official)):
                lines.append(f"{self.sentence(self._noisy((BAD, GOOD)[i % 2]))}\t{i % 2}")
            self._save(self.path("SST", "binary", f"sentiment-{split}"), lines)

    def _trec(self, name: str) -> None:
        for file, official in senteval.TREC_FILES.values():
            lines = []
            for i in range(self._rows(official)):
                coarse = senteval.TREC_CLASSES[i % 6]
                lines.append(f"{coarse}:fine {self.sentence(coarse.lower())} ?")
            self._save(self.path("TREC", file), lines, "latin-1")

    def _mrpc(self, name: str) -> None:
        for split, official in senteval.MRPC_ROWS.items():
            lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
            for i in range(self._rows(official)):
                first, second, score = self._pair()
                lines.append(f"{int(score > 2.5)}\t{i}\t{i}\t{first}\t{second}")
            self._save(self.path("MRPC", f"msr_paraphrase_{split}.txt"), lines)


class BagOfWords:
    """A real, deterministic encoder in five lines: counts of words; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, sentences: list[str]):
        import numpy as np

        self.calls.append(list(sentences))
        words = [*WORDS, GOOD, BAD, *(name.lower() for name in senteval.TREC_CLASSES)]
        return np.array([[sentence.split().count(word) for word in words] for sentence in sentences], dtype=np.float32)
