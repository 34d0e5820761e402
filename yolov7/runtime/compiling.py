"""What ``torch.compile`` does meanwhile, for people who wait, and where its results are kept for the next run."""

from __future__ import annotations

import logging
import os
import time
from functools import cache
from typing import Any

from yolov7.config import chosen_cache

logger = logging.getLogger(__name__)

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled() -> str:
    """The folder that compiled parts are kept in, unless the environment names one: that of the user's caches."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # slow to import

    folder = chosen_cache()
    usual = default_cache_dir()  # torch sets the variable, too; a temporary folder is lost with the next start
    if folder and os.environ.get(COMPILED_VARIABLE, usual) == usual:
        os.environ[COMPILED_VARIABLE] = str(folder / "compiled")
    return os.environ.get(COMPILED_VARIABLE, usual)


class CompilingNews:
    """A line for each part of a network that is compiled, when it begins and when it is done."""

    def __init__(self) -> None:
        self._parts = 0
        self._since = self._start = time.monotonic()

    def begin(self, _: Any = None) -> None:
        """A part is being compiled."""
        self._parts += 1
        self._since = time.monotonic()
        logger.info("compiling part %d ...", self._parts)

    def end(self, _: Any = None) -> None:
        """It is done."""
        now = time.monotonic()
        logger.info("compiling part %d took %.0f s, all parts %.0f s since the start", self._parts, now - self._since,
                    now - self._start)


@cache
def tell_of_compiling() -> CompilingNews:
    """Log what is compiled in this process from now on."""
    from torch._dynamo.callback import callback_handler  # slow to import

    news = CompilingNews()
    callback_handler.register_start_callback(news.begin)
    callback_handler.register_end_callback(news.end)
    return news
