"""YOLOv7 in PyTorch: from a YAML model config to a deployed, re-parameterized detector."""

__version__ = "0.1.0"
