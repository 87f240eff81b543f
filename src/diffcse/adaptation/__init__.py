"""Documents in, a model that is shown to be better on them out.

In reading order: settings (of the whole), parts (documents to train on, to choose by, to report on), questions (what is
asked of the held-out documents, without labels), blend (means of the start's weights and the trained ones, the choice
between them), lexical_map (what counting words adds to the vectors), verdict (when the start is kept), adapt (the job
as a table of contents), searchable (an index of the documents), page (what it reports).
"""
