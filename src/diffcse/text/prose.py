"""What marked-up text is turned into before it is cut into sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SPACE_ENDS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Letters of Thai, Lao, Burmese and Khmer, for a regular expression: a space, not a mark, ends a sentence there."""
UNSPACED = SPACE_ENDS + "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Letters of all scripts without spaces between words: those, Japanese and Chinese."""

BULLET = re.compile(r"^\s*(?:[-*+•‣]|\d{1,3}[.)]|#\.)\s+")
"""The mark of an item of a list."""


@dataclass(frozen=True)
class Block:
    """A paragraph, a list item or a heading; no sentence crosses from one to the next."""

    text: str
    heading: bool = False


@dataclass
class Prose:
    """What is left of a marked-up text."""

    blocks: list[Block] = field(default_factory=list)
    title: str = ""
    code: int = 0
    """Code blocks removed."""
    tables: int = 0
    """Tables removed."""

    def add(self, text: str, *, heading: bool = False) -> None:
        """Append a block, unless it is blank."""
        if text := " ".join(text.split()):
            self.blocks.append(Block(text, heading))

    def take(self, other: Prose) -> None:
        """Append the blocks and counts of a part."""
        self.blocks += other.blocks
        self.code += other.code
        self.tables += other.tables
