"""Which extra of `collafuse-edge` brings a package that a command lacks."""

BROUGHT = {
    "edge": frozenset({"onnxruntime", "PIL", "cryptography", "starlette", "uvicorn", "sse_starlette"}),
    "server": frozenset({"torch", "safetensors", "fsspec", "httpx", "cryptography", "pynvml"}),
    "operator": frozenset({"httpx", "cryptography", "fsspec"}),
    "monitoring": frozenset({"httpx"}),
    "export": frozenset({"torch", "safetensors", "onnx", "onnxscript", "onnxruntime", "cryptography"}),
    "train": frozenset({"torch", "safetensors"}),
    "evaluation": frozenset(
        {
            "torch",
            "safetensors",
            "sklearn",
            "scipy",
            "jinja2",
            "PIL",
            "threadpoolctl",
            "torchmetrics",
            "nibabel",
            "matplotlib",
            "onnxruntime",
        }
    ),
    "text": frozenset({"transformers"}),
    "otel": frozenset({"opentelemetry"}),
}
"""Extra → the modules of its packages."""

WANTED = {
    "demo": ("all",),
    "evaluate": ("evaluation", "text"),
    "doctor": ("operator",),
    "plan": ("operator",),
    "backup": ("operator",),
    "deploy": ("operator",),
    "broker": ("operator",),
    "worker": ("server",),
    "edge": ("edge", "train", "operator"),
    "export": ("export",),
    "monitor": ("monitoring",),
    "top": ("monitoring",),
    "trace": ("otel",),
}
"""Command → the extras that are its own, the first that brings a package is the right one. `all` brings whatever there is."""


def extra_for(module: str, command: str | None) -> str | None:
    """Returns the extra to install where a module is missing, None when no extra brings it.

    Args:
        module: with dots or without, as Python names it.
        command: the word after `collafuse`. One package is in many extras, and which is meant depends on it.
    """
    package = module.partition(".")[0]
    bringing = [extra for extra, modules in BROUGHT.items() if package in modules]
    if not bringing:
        return None
    wanted = WANTED.get(command or "", ())
    return next((extra for extra in wanted if extra in bringing or extra == "all"), bringing[0])
