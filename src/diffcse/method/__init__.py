"""The paper, in reading order; one idea a file.

objective: the losses as pure functions. views: what the vector should ignore. masking, edits, generator: what it should
notice. predictors, discriminator: what is asked about an edit. pooling, prompt: from tokens to a sentence vector.
model: the training module. contrast, later_work: the contrastive side, and what later papers make of it.
"""
