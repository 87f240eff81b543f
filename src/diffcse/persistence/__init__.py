"""Any encoder in, a SentenceTransformer folder out.

load: whatever people have. hub: can the Hub be reached? save: a plain folder. layout: its small files in the form that
all tools read. card: its README.md.
"""
