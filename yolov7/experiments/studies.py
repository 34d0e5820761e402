"""A study of Optuna in a folder, which several processes, also of several machines, share.

Optuna is an extra (``pip install 'yolov7-framework[tune]'``). What it says of itself is silenced; its choices follow
from the study's seed, the number of a trial and the trials before it.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from yolov7.config import InputError, RunError, atomic_write, reason_of
from yolov7.config.messages import without_secrets

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

NAME = "yolov7"  # of every study, in a database of its own
DATABASE, BASE, IDENTITY = "study.db", "base.yaml", "disk"
PATIENCE = 120.0  # seconds for the database, and for the lock of the study
RANDOM_TRIALS = 10  # before the choices follow from what was seen


def import_optuna() -> Any:
    """The package; raises `InputError` where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise InputError("tune needs the package optuna: pip install 'yolov7-framework[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    return optuna


class StudyFolder:
    """The study, the folder of its trials, and their locks."""

    def __init__(self, folder: Path, storage: str = "") -> None:
        self.optuna = import_optuna()
        self.folder = folder
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        url = storage or f"sqlite:///{(folder / DATABASE).absolute()}"
        try:
            arguments = {"timeout": PATIENCE} if url.startswith("sqlite") else {}
            with self.lock():
                store = self.optuna.storages.RDBStorage(url, {"connect_args": arguments})
                name = NAME if not storage else f"{NAME} {folder.name}"
                self.study: optuna.Study = self.optuna.create_study(
                    storage=store, study_name=name, direction="maximize", load_if_exists=True)
        except Exception as error:  # of the database, its driver, or a file that is none
            shown = without_secrets(storage) if storage else str(folder / DATABASE)
            raise InputError(f"--storage {shown}: cannot be opened ({type(error).__name__}: "
                             f"{without_secrets(reason_of(error))}); accepted: sqlite:///FILE, or the address of a "
                             "database server") from None
        self.disk = self._identity()

    def _identity(self) -> str:
        """What tells this folder from those of machines that share the study, but not the disk."""
        path = self.folder / IDENTITY
        with self.lock():
            if not path.is_file():
                atomic_write(path, uuid.uuid4().hex)
            return path.read_text(encoding="ascii", errors="replace")[:64]

    def begin(self, facts: Mapping[str, Any], recipe: str, start: Mapping[str, Any] | None) -> None:
        """Note what the study is, with a first trial; raises `InputError` where it was begun as something else."""
        own = json.loads(json.dumps({**facts, "hyp": recipe}))
        with self.lock():
            before: Any = self.study.user_attrs.get("facts")
            if before is None:
                self.study.set_user_attr("facts", own)
                if start:
                    self.study.enqueue_trial(dict(start))
            for name in own if isinstance(before, dict) else ():
                said = before.get(name)
                if said != own[name]:
                    raise InputError(f"study {self.folder}: was begun with {name} {said!r}, this is "
                                     f"{own[name]!r}; take another --study, or the same settings")
            atomic_write(self.folder / BASE, recipe)

    # --- trials ------------------------------------------------------------------------------------------------------

    def trials(self, *states: str) -> list[FrozenTrial]:
        """Those in one of these states, by number; without states all."""
        kinds = tuple(self.optuna.trial.TrialState[name] for name in states) or None
        return self.study.get_trials(deepcopy=False, states=kinds)

    def trial(self, number: int) -> FrozenTrial:
        """What is known of one."""
        return self.trials()[number]

    def count(self, *states: str) -> int:
        """How many; without states those that the budget counts: all but failed ones and those not begun."""
        return len(self.trials(*(states or ("RUNNING", "COMPLETE", "PRUNED"))))

    def best(self) -> FrozenTrial | None:
        """The best finished trial, of equal ones the first."""
        return max(self.trials("COMPLETE"), key=lambda trial: (trial.value, -trial.number), default=None)

    def begun_here(self) -> list[int]:
        """Numbers of trials that run, or did when their process was killed, on this disk."""
        return [trial.number for trial in self.trials("RUNNING") if trial.user_attrs.get(IDENTITY) == self.disk]

    def reopened(self, number: int) -> optuna.Trial:
        """A trial that has begun, to be gone on with."""
        trial: optuna.Trial = self.optuna.trial.Trial(self.study, self.trial(number)._trial_id)
        return trial

    def ask(self, seed: int) -> optuna.Trial:
        """A new trial; the caller holds the lock of the study.

        It is put into the queue first, with this disk's mark: one whose process is killed right here is not lost.
        """
        optuna = self.optuna
        number = len(self.trials())
        if not self.count("WAITING"):
            self.study.enqueue_trial({}, user_attrs={IDENTITY: self.disk})
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True,
            seed=(seed * 1_000_003 + number) % 2**32)
        trial = self.study.ask()
        if trial.user_attrs.get(IDENTITY) != self.disk:
            trial.set_user_attr(IDENTITY, self.disk)
        return trial

    def choose_pruner(self, name: str, epochs: int) -> None:
        """Who decides that a trial is hopeless, of trainings of so many epochs: ``median``, ``halving`` or ``off``."""
        pruners = self.optuna.pruners
        if name == "median":
            self.study.pruner = pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(epochs // 4, 1))
        elif name == "halving":
            self.study.pruner = pruners.SuccessiveHalvingPruner(min_resource=max(epochs // 16, 1), reduction_factor=4)
        else:
            self.study.pruner = pruners.NopPruner()

    def tell(self, trial: optuna.Trial, value: float | None, state: str = "COMPLETE") -> None:
        """How a trial has ended."""
        try:
            self.study.tell(trial, value, self.optuna.trial.TrialState[state])
        except ValueError as error:  # another process has told it
            raise RunError(f"study {self.folder}, trial {trial.number}: {error}") from None

    # --- files -------------------------------------------------------------------------------------------------------

    def folder_of(self, number: int) -> Path:
        """Where the training of a trial lies."""
        return self.folder / "trials" / f"{number:04d}"

    def lock(self) -> FileLock:
        """Of the study: held for moments, by whoever chooses a trial or writes a report."""
        return FileLock(self.folder / ".study.lock", timeout=PATIENCE)

    def lock_of(self, number: int) -> FileLock:
        """Of a trial: held as long as it runs."""
        return FileLock(self.folder / "trials" / f".{number:04d}.lock")
