"""``yolov7.train(...)`` and the others: the commands, with the flags' names, defaults, limits and meanings.

Editors read the signatures in ``functions.pyi``, which ``scripts/write_stubs.py`` writes from the same definitions.
"""

from __future__ import annotations

from yolov7.commands.calling import make_function

train = make_function("train")
test = make_function("test")
speed = make_function("speed")
detect = make_function("detect")
export = make_function("export")
models = make_function("models")
recipe = make_function("recipe")
tune = make_function("tune")
compare = make_function("compare")
ablation = make_function("ablation")
average = make_function("average")
check_data = make_function("data check")
convert_data = make_function("data convert")
shard_data = make_function("data shard")
fit_anchors = make_function("data anchors")
