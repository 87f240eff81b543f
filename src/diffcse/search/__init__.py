"""Texts that are near to others.

index: a folder that grows, shrinks and is searched. rows: its texts and columns in SQLite. nearest: its vectors.
build: from a text or a table to an index, and searches with words. columns: what a table says besides its text.
dedup: near-duplicates. mine: hard negatives.
"""
