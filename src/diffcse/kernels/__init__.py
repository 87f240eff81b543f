"""The same numbers, faster: the first line of each file names the plain code that it stands for, and what it gains.

packing: the padding-free forward. attention, varlen: packed attention with dropout, on a CPU and on a GPU. dropout:
masks drawn cheaply. gradient_cache: a large batch in the memory of a small one. memory: what becomes of freed memory.
waits: what this machine knows already is not asked of the device.
"""
