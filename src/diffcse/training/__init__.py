"""A run from text to a model folder; `train` is the table of contents.

networks: what the run starts from. batches, spans: what the module is fed. trainer: the loop's own rules. display: what
a run shows. run_folder: who may write, and what resumes. criteria, keep_weights, averages: which weights are kept.
fingerprint: what two runs are compared by. st_loss: the same as a loss of sentence-transformers' trainer.
"""
