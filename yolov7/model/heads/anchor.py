"""The head of a detector."""

from __future__ import annotations

from yolov7.model.heads.base import Head, register_head


@register_head
class AnchorHead(Head):
    """Boxes, objectness and classes alone."""
