"""Texts that are near to others.

index: a folder that grows, shrinks and is searched. facts: what it says about itself. rows: its texts and columns in
SQLite. words: how they are found by their words. nearest: its vectors. writing: how it changes. remote: on object
storage. build: from a text or a table to an index, and searches with words. columns: what a table says besides its
text. dedup: near-duplicates. mine: hard negatives.
"""
