"""From files to token ids, one row at a time.

opening: one door for all readers, packed or not, in every Unicode encoding. tables and sources: files, tables and the
Hub. standard_input: what is piped in. stream: the lines of one text, for verbs that read once. dataset: tokenised
text. unknown: what a vocabulary cannot read. documents, with find_documents, clean_documents, markup (rst), prose,
sentences and near_duplicates: whole documents as lists of sentences. docstrings: the documentation of the installed
packages, text that every machine has. cache: where the memory-mapped tables of all these are kept.
"""
