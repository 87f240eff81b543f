"""The paper (Chuang et al., NAACL 2022), in reading order; one idea a file.

objective: the losses as pure functions, equations 1, 3 and 4. views: what the vector should ignore. masking, edits,
generator: what it should notice, and who makes it. predictors, discriminator: what is asked about an edit, and who
answers. pooling, prompt: from tokens to a sentence vector. model: the training module, whose forward is the paper.
contrast, later_work: InfoNCE in a step, and what later papers add to it.
"""
