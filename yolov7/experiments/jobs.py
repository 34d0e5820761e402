"""Many trainings one after the other, as many at a time as there are places for."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from yolov7.config import InputError
from yolov7.experiments.processes import Job, Outcome, Place, TrainingProcess
from yolov7.experiments.run_folders import Epoch
from yolov7.runtime.progress import Progress

logger = logging.getLogger(__name__)

POLL = 0.3  # seconds between looks at the trainings
LOOK_ELSEWHERE = 5.0  # seconds between looks at those of other processes


class JobSource:
    """Where jobs come from, and who is told of them."""

    def next_job(self) -> Job | None:
        """The next one to run here; None where there is none now."""
        raise NotImplementedError

    @property
    def is_exhausted(self) -> bool:
        """Whether there will be no more, apart from those that run here."""
        raise NotImplementedError

    def epoch_done(self, job: Job, epoch: Epoch) -> bool:
        """Told of each finished epoch; whether the training is to end."""
        return False

    def ended(self, job: Job, outcome: Outcome, reason: str) -> None:
        """Told how it has ended, and why where it has failed."""


def run_jobs(source: JobSource, places: Sequence[Place]) -> None:
    """Run all jobs of a source; whatever ends this function ends its trainings, which go on in a later call."""
    running: list[TrainingProcess] = []
    free = list(places)
    try:
        while True:
            while free and (job := source.next_job()) is not None:
                running.append(TrainingProcess(job, free.pop(0)))
            if not running and source.is_exhausted:
                return
            ended = [process for process in running if _look_at(process, source)]
            running[:] = [process for process in running if process not in ended]
            free += [process.place for process in ended]
            time.sleep(POLL)
    finally:
        _end(running)


def _look_at(process: TrainingProcess, source: JobSource) -> bool:
    """Tell the source what a training has done; whether it has ended."""
    outcome = process.outcome()  # before the epochs are read: nothing comes after it
    for epoch in process.new_epochs():
        if source.epoch_done(process.job, epoch):
            process.stop()
            break
    if outcome is None:
        return False
    source.ended(process.job, outcome, process.last_words() if outcome == "failed" else "")
    return True


def _end(processes: Sequence[TrainingProcess]) -> None:
    for process in processes:
        process.stop()
    while any(process.outcome() is None for process in processes):
        time.sleep(POLL)


class JobList(JobSource):
    """Jobs that are known, of which those that other processes run, or have run, are left to them.

    Several processes, on several machines with one disk, share the work where they run the same list.
    """

    def __init__(self, jobs: Sequence[Job], description: str) -> None:
        for job in jobs:
            job.note()
        self.jobs, self.failed = tuple(jobs), dict[str, str]()
        self._waiting = deque(job for job in jobs if not job.is_finished())
        self._looked = 0.0
        done = sum(job.epochs for job in jobs if job not in self._waiting)
        if self._waiting and len(self._waiting) < len(jobs):
            logger.info("%s: %d of %d runs are finished", description, len(jobs) - len(self._waiting), len(jobs))
        self.progress: Progress[None] = Progress((), description, sum(job.epochs for job in jobs), "epochs", done)

    def next_job(self) -> Job | None:
        """The first one that nobody runs; those of others are looked at again later."""
        if time.monotonic() - self._looked < LOOK_ELSEWHERE:
            return None
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            if job.is_finished():  # by another process
                self.progress.update(job.epochs)
            elif job.is_elsewhere():
                self._waiting.append(job)
            else:
                return job
        self._looked = time.monotonic()
        return None

    @property
    def is_exhausted(self) -> bool:
        """See `JobSource`."""
        return not self._waiting

    def epoch_done(self, job: Job, epoch: Epoch) -> bool:
        """See `JobSource`."""
        ap = f"AP {epoch['AP']:.3f}" if "AP" in epoch else ""
        self.progress.note(f"{job.label}: epoch {epoch['epoch']:.0f}/{job.epochs}", ap)
        self.progress.update()
        return False

    def ended(self, job: Job, outcome: Outcome, reason: str) -> None:
        """See `JobSource`."""
        if outcome == "elsewhere":
            self._waiting.append(job)
        elif outcome != "finished":
            self.failed[job.label] = reason or "was stopped"
            logger.error("%s has failed: %s (%s)", job.label, self.failed[job.label], job.folder / "train.log")


def run_list(jobs: Sequence[Job], places: Sequence[Place], description: str) -> dict[str, str]:
    """Run jobs that are known; returns those that have failed, and why."""
    if len({job.folder for job in jobs}) < len(jobs):
        raise InputError(f"{description}: two runs would share a folder; accepted: names and seeds that differ")
    found = JobList(jobs, description)
    with found.progress:
        run_jobs(found, places)
    return found.failed
