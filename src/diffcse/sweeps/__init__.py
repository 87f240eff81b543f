"""Many runs from one settings file, and what they say.

plan: which runs, and running them. results: their scores. report: means, intervals and paired tests. ablations: the
paper's tables as sweeps. reproduce (with reproduce_settings): the paper's main tables from the published text;
estimate: how long that takes.
"""
