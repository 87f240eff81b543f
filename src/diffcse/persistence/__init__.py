"""Any encoder in, a SentenceTransformer folder out.

hub: where a model's files are. load: whatever people have. weights: are they those of the architecture? save: a plain
folder. layout: its small files in the form that all tools read. card: its README.md.
"""
