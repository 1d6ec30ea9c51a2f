"""The anytime inference service: from an image and a budget to a prediction that refines until the budget is spent."""

import os

# ONNX Runtime's wheels report every session to their maker over the network unless this is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
