"""From files to token ids, one row at a time.

sources: files, tables and the Hub. stream: the lines of one text, for verbs that read once. dataset: tokenised text in
memory-mapped tables. docstrings: the documentation of the installed packages, text that every machine has.
"""
