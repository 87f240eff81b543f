"""Vectors of many sentences.

encode: the class Encoder, sorted by length, batched by tokens. tokenise: texts to token ids. prompts: the words in
front of a query or a document. backends, by_library: what runs a batch. bulk: a text of any length to a file. parts:
the numbered parts of a file. workers, ray_workers: the same parts by several processes, or by a cluster.
"""
