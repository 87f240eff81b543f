"""A start and a generator from plain text alone.

config: sizes and schedules. wordpiece: a tokenizer. mlm: a small masked language model. continued: the same from an
existing encoder. word_vectors: counting and factorising. word_vector_start: an encoder that begins as a weighted
mean of them.
"""
