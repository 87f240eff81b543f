"""Results as tables, figures and a page.

tables: on a terminal. figures: with matplotlib. page, report: one self-contained page. published: the literature's
numbers. model_index: results in a model's README.md.
"""
