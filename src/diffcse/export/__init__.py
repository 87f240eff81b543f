"""A model folder that ONNX Runtime or OpenVINO can run too.

export: made, checked against the original, then put in place. graphs: one graph, made, quantised and run.
"""
