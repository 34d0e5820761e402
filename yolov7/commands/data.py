"""``yolov7 data ...``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from yolov7.config import InputError
from yolov7.config.options import AnchorsOptions, CheckOptions, ConvertOptions, ShardOptions

if TYPE_CHECKING:
    from yolov7.data.check import DataFacts
    from yolov7.engine.anchors import AnchorFit

logger = logging.getLogger(__name__)


def check(options: CheckOptions) -> DataFacts:
    """Show what is understood of a data set and what is wrong with it: exit code 0, 1 (faults) or 2 (unusable)."""
    from yolov7.data.check import check_data

    if not options.data:
        raise InputError("--data is missing; accepted: a YAML or .data file, a shipped name, or a folder")
    if options.report and Path(options.report).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {options.report!r}; accepted: an HTML file (data.html)")
    facts = check_data(options.data, options.decode)
    logger.info("%s", facts.text(options.all))
    if options.report:
        from yolov7.engine.data_report import write_data_report

        logger.info("\npage: %s", write_data_report(facts, options))
    return facts


def convert(options: ConvertOptions) -> Path:
    """Write a data set as YOLO txt or as COCO JSON, with the file that train.py reads."""
    from yolov7.data.convert import convert as run_conversion

    return run_conversion(options)


def shard(options: ShardOptions) -> Path | str:
    """Write a data set as tar files that webdataset reads, too, or check such files: exit code 0 or 1 (faults)."""
    from yolov7.data.shards import check_shards, write_shards

    return check_shards(options) if options.check else write_shards(options)


def anchors(options: AnchorsOptions) -> AnchorFit:
    """Show how well a model's anchors fit a data set, beside fitted ones; writes the model with those."""
    from yolov7.engine.anchors import show_anchors

    return show_anchors(options)
