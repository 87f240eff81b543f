"""The paper's evaluation re-implemented, and searches, for anything with `encode(sentences)`.

tasks: the paper's fourteen. senteval, fetch: reading SentEval's folder, and bringing it. embed: every sentence encoded
once. sts, transfer with its classifier: scores. suite: all of it, planned, checked and averaged. analysis: alignment,
uniformity, neighbours. pairs: your own labelled pairs. criterion: STS-B dev, which chooses checkpoints. retrieval,
beir, judged, lexical: finding documents, judged collections, and TF-IDF and BM25 next to any encoder. statistics,
compare: intervals and paired tests.
"""
