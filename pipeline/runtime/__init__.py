"""The runtime that is shipped with a model: text to label with numpy, onnxruntime and tokenizers alone.

The same files run in the export gate, in MLflow's pyfunc and inside Triton; they import nothing else from the project.
"""
