"""Results as tables, figures and a page.

table: a table before anybody prints it. terminal, page: its two printers. picture, figures: pictures, drawn with
matplotlib. logs: of training runs. tables, form, report: an evaluation's tables, the form of its file, its page.
published: the literature's numbers. model_index: results in a model's README.md.
"""
