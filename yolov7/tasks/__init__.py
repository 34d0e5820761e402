"""What a task adds to a detector, in one place: found by the head that the model's YAML names."""

from yolov7.tasks.base import Task, Training, find_task, register_task

__all__ = ["Task", "Training", "find_task", "register_task"]
