"""A model folder that ONNX Runtime or OpenVINO can run too.

export: a graph is built, checked against the original, and put in place atomically. graphs: how a graph is built and
quantised (encoding/backends runs it).
"""
