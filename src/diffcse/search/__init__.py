"""Sentences that are near to others.

index: a folder of vectors and sentences. manifest: what it says about itself. build: from a text to an index.
dedup: near-duplicates.
"""
