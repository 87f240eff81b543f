"""The paper's evaluation: SentEval's STS and transfer tasks, and analyses, for anything with `encode(sentences)`.

Nothing is imported here, so that a command which needs one room does not pay for the others.
"""
