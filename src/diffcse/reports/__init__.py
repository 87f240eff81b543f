"""Results as tables, figures and a page.

table: a table before anybody prints it. terminal, page: its two printers. tables: an evaluation's tables. picture,
figures: pictures, drawn with matplotlib. form, report: an evaluation's results checked and shown on a page. published:
the literature's numbers. model_index: results in a model's README.md.
"""
