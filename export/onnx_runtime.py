"""onnxruntime, told to keep to itself before it is loaded.

Its published wheels report to their maker over HTTPS, under an identifier that they keep in the user's cache together with what
could not be sent yet. A device says nothing to anybody but its broker, so everybody takes onnxruntime from here.
"""

import os

# Read once, when the library begins; inherited by the processes that are begun from here.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

__all__ = ["ort"]
