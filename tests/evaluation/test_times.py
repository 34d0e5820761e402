"""Means and percentiles: each picture counts once."""

from __future__ import annotations

import pytest

from yolov7.evaluation.times import WHOLE, StageTimes


def test_pictures_count_once_and_stages_add_up() -> None:
    times = StageTimes()
    for network, count in ((10.0, 8), (10.0, 8), (100.0, 1)):  # the last batch is small
        for stage, spent in (("data", 1.0), ("input", 0.5), ("network", network), ("nms", 2.0), ("collect", 7.0)):
            times.add(stage, spent, count)
    found = times.summary()
    assert found["network"]["mean"] == pytest.approx((16 * 10 + 100) / 17)
    assert (found["network"]["p50"], found["network"]["p90"]) == (10.0, 10.0)
    assert found["network"]["p99"] == pytest.approx(85.6)
    assert found[WHOLE]["mean"] == pytest.approx(found["network"]["mean"] + 3.5)  # without what is collected
    text = times.text().splitlines()
    assert text[0].split() == ["ms", "a", "picture", "mean", "p50", "p90", "p99", "a", "second"]
    assert text[-1].startswith("end to end") and text[-1].endswith(f"{1000 / found[WHOLE]['mean']:.1f}")
    assert text[0].index("mean") + 4 == text[1].index(".") + 3  # figures stand below their names


def test_nothing_timed_is_no_fault() -> None:
    assert StageTimes().summary() == {} and StageTimes().text().count("\n") == 0
