"""Vectors of many sentences.

encode: sorted by length, batched by tokens. bulk: a text of any length to a file. sinks: the files. ray_workers: the
same on a cluster.
"""
