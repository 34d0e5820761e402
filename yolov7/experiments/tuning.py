"""A study: trainings whose recipes Optuna chooses, until the budget is spent.

The study lies in a database, its trainings in a folder. A trial belongs to the process that holds its lock, which the
system releases however that process ends: whoever comes next goes on with it, from its last checkpoint.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from yolov7.config import InputError, RunError
from yolov7.config.messages import without_secrets
from yolov7.config.program import saying_how_to_go_on
from yolov7.engine.run import settled_config
from yolov7.engine.run_config import AUTO, RunConfig, TrainOptions, settings_text
from yolov7.experiments.jobs import JobSource, run_jobs
from yolov7.experiments.processes import UNIMPORTANT, Job, Outcome, places
from yolov7.experiments.run_folders import Epoch, RunFolder, fitness_of
from yolov7.experiments.search_space import SearchSpace, read_space, split
from yolov7.experiments.studies import BASE, StudyFolder, import_optuna
from yolov7.experiments.study_report import StudyResult, write_report, write_table
from yolov7.experiments.tune_options import TuneOptions
from yolov7.runtime.folders import process_in
from yolov7.runtime.progress import Progress

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

WAIT = 120.0  # seconds for the study's lock
FAILURES = 3  # trials that fail, where none has not, until the study ends
GIVEN = ("data", "weights", "freeze", "seed", "multi_scale", "image_weights", "linear_lr", "close_mosaic", "precision",
         "rect", "cache", "log", "augment_device", "shard_window", "classes", "single_cls", "sync_bn", "compile",
         "cuda_graphs", "fused_norm", "workers")  # flags that every training has as they are


def tune(options: TuneOptions) -> StudyResult:
    """Run a study, or go on with one; raises `RunError` where not one trial could be finished."""
    import_optuna()
    if options.batch_size == AUTO:
        raise InputError("--batch-size auto: in a study all trials have one batch size; accepted: a number")
    run_places = places(options.devices, options.devices_per_run)
    config = settled_config(TrainOptions(**{f.name: getattr(options, f.name) for f in fields(TrainOptions)}))
    space = read_space(options.space, config.recipe)
    study = StudyFolder(Path(options.project) / options.study, options.storage)
    trials = Trials(study, space, config, options)
    with saying_how_to_go_on("tune", options), trials.progress:
        run_jobs(trials, run_places)
    result = write_report(study, config.recipe)
    if result.best is None:
        raise RunError(f"no trial of the study has been finished{f': {trials.reason}' if trials.reason else ''}")
    logger.info("%s", result)
    return result


class Trials(JobSource):
    """The trials of a study that this process runs."""

    def __init__(self, study: StudyFolder, space: SearchSpace, config: RunConfig, options: TuneOptions) -> None:
        self.study, self.space, self.config, self.options = study, space, config, options
        self.folder, self.reason = study.folder, ""
        self.pinned = _pinned(config, options)
        study.choose_pruner(options.prune, config.epochs)
        facts = {name: value for name, value in self.pinned.items() if name not in UNIMPORTANT}
        study.begin(facts | {"space": [dimension.text() for dimension in space.dimensions]},
                    settings_text(config.recipe), space.start(config.recipe, self.pinned))
        self._running: dict[Path, tuple[optuna.Trial, FileLock, set[int]]] = {}
        self._deadline = time.monotonic() + 3600 * options.hours if options.hours is not None else float("inf")
        self._is_over = self._ending = False
        logger.info("study %s: %d trials of %d epochs, %d keys of %s, in %s", options.study, options.trials,
                    config.epochs, len(space.dimensions), space.file,
                    without_secrets(options.storage) if options.storage else study.folder)
        self.progress: Progress[None] = Progress((), options.study, options.trials, "trials", study.count())

    def next_job(self) -> Job | None:
        """A trial that a process has left behind, else a new one."""
        if self._is_over:
            return None
        with self.study.lock():
            found = self._left_behind()
            if found is None and self._ending:
                return None
            if found is None and not self._may_ask():
                self._is_over = True
                return None
            trial, lock = found or self._asked()
            values = self.space.suggest(trial)
        flags, changes = split(values)
        own = {**self.pinned, **flags, "set": changes}
        if "img_size" in flags:
            own["img_size"] = [flags["img_size"]]
        folder = self.study.folder_of(trial.number)
        self._running[folder] = trial, lock, set(self.study.trial(trial.number).intermediate_values)
        if "weights" in flags and "cfg" not in flags:
            own.pop("cfg", None)
        return Job(folder, own, f"trial {trial.number}")

    @property
    def is_exhausted(self) -> bool:
        """See `JobSource`."""
        return self._is_over

    def _may_ask(self) -> bool:
        wanted, failed = self.options.trials, self.study.count("FAIL")
        if self.study.count() >= wanted or failed >= wanted or time.monotonic() >= self._deadline:
            return False
        return failed < FAILURES or self.study.count() > 0

    def _left_behind(self) -> tuple[optuna.Trial, FileLock] | None:
        """A trial whose process is gone, with its training; one whose training is about to end is waited for."""
        self._ending = False
        for number in self.study.begun_here():
            lock = self.study.lock_of(number)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            if process_in(self.study.folder_of(number)):
                lock.release()
                self._ending = True
                continue
            logger.info("trial %d: was left behind, and goes on", number)
            return self.study.reopened(number), lock
        return None

    def _asked(self) -> tuple[optuna.Trial, FileLock]:
        trial = self.study.ask(self.options.study_seed)
        lock = self.study.lock_of(trial.number)
        lock.acquire(timeout=WAIT)
        return trial, lock

    def epoch_done(self, job: Job, epoch: Epoch) -> bool:
        """Tell the study how good the trial is so far; whether it is pruned."""
        trial, _, told = self._running[job.folder]
        step = int(epoch["epoch"])
        self.progress.note(f"{job.label}: epoch {step}/{job.epochs}", f"AP {epoch.get('AP', 0):.3f}")
        if step in told or "AP" not in epoch:
            return False
        told.add(step)
        trial.report(fitness_of(epoch), step)
        return step < job.epochs and trial.should_prune()

    def ended(self, job: Job, outcome: Outcome, reason: str) -> None:
        """Tell the study what came out."""
        trial, lock, _ = self._running.pop(job.folder)
        if outcome == "elsewhere":  # a training that is about to end
            lock.release()
            return
        best = RunFolder(job.folder).best
        if outcome == "finished" and best is not None:
            self.study.tell(trial, fitness_of(best))
            logger.info("%s: AP %.4f in epoch %d", job.label, best["AP"], int(best["epoch"]))
        elif outcome == "stopped":
            self.study.tell(trial, None, "PRUNED")
            logger.info("%s: pruned after %d epochs", job.label, len(RunFolder(job.folder).epochs))
        else:
            self.reason = reason or "nothing was measured"
            trial.set_user_attr("reason", self.reason)
            self.study.tell(trial, None, "FAIL")
            logger.warning("%s has failed: %s (%s)", job.label, self.reason, job.folder / "train.log")
        self.progress.update(outcome != "failed")
        with self.study.lock():
            _keep_best_weights(self.study)
            write_table(self.study, self.config.recipe)
        lock.release()


def _pinned(config: RunConfig, options: TuneOptions) -> dict[str, Any]:
    """The flags of every training, but for what the study chooses."""
    default = {field.name: field.default for field in fields(RunConfig)}
    own: Mapping[str, Any] = {name: getattr(options, name) for name in GIVEN} | {"data": config.data}
    flags = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()
             if value != default[name]}
    flags |= {"hyp": str(Path(options.project) / options.study / BASE), "epochs": config.epochs,
              "batch_size": config.batch_size, "nominal_batch": config.nominal_batch, "patience": config.patience,
              "img_size": [config.train_size, config.test_size]}
    return flags | ({"cfg": options.cfg or config.cfg} if options.cfg or not options.weights else {})


def _keep_best_weights(study: StudyFolder) -> None:
    """Delete the weights of trials that have ended, but for those of the best one."""
    best = study.best()
    for trial in study.trials("COMPLETE", "PRUNED", "FAIL"):
        weights = study.folder_of(trial.number) / "weights"
        if (best is None or trial.number != best.number) and weights.is_dir():
            shutil.rmtree(weights, ignore_errors=True)
