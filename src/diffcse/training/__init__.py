"""A run from text to a model folder; `train` is the table of contents.

texts, spans: what is read. networks: what the run starts from. checks: what is refused. build, batches: the module, the
trainer and what they are fed. trainer: the loop's own rules. callbacks, display: what watches it and shows it.
process, run_folder: what it may change, who may write, and what resumes. criteria, keep_weights, averages: which
weights are kept. fingerprint: what two runs are compared by. st_loss: the same as a loss of sentence-transformers'
trainer.
"""
