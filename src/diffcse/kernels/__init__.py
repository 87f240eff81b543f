"""The same numbers, faster: each file names the plain code that it stands for.

packing: the padding-free forward. attention: packed attention with dropout on a CPU. varlen: the same
on a GPU. dropout: masks drawn cheaply.
gradient_cache: a large batch in the memory of a small one. memory: what becomes of freed memory.
"""
