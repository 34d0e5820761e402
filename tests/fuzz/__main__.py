"""``python -m tests.fuzz --count 10000 --jobs 2``: exit code 1 if an input ends as none should (docs/fuzzing.md)."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finding:
    """How an input ended, by its name."""

    family: str
    seed: int
    brief: str
    fresh: bool
    outcome: Any

    @property
    def name(self) -> str:
        """``family:seed``, with which it can be made again."""
        return f"{self.family}:{self.seed}"

    @property
    def kind(self) -> tuple[str, str]:
        """What findings of the same fault share: how it ended, and where it came from or what was said."""
        outcome = self.outcome
        return outcome.kind, f"{outcome.where} {outcome.detail.split(':')[0 if outcome.where else 1][:60]}" \
            if outcome.kind == "traceback" and ":" in outcome.detail else outcome.where or outcome.detail[:40]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs, shared by the families (default: 1000)")
    parser.add_argument("--family", nargs="+", default=["all"], help="families, or family:seed for single inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each family")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run inputs")
    parser.add_argument("--fresh", type=int, default=0, help="run so many of them in new processes instead of forks")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout whose package is tried")
    parser.add_argument("--seconds", type=float, default=20, help="an input that takes longer hangs")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "yolov7-fuzz",
                        help="folder for the inputs that fail")
    parser.add_argument("--json", type=Path, help="also write all findings to this file")
    parser.add_argument("--verbose", action="store_true", help="a line for each input")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, tell how they ended; 1 if there are faults."""
    os.environ["OMP_NUM_THREADS"] = "1"
    options = parse(arguments)
    options.source, options.keep = options.source.resolve(), options.keep.resolve()
    options.keep.mkdir(parents=True, exist_ok=True)
    from . import corpus, runner

    runner.warm_up(options.source)
    from .families import ALL

    names = planned(options, list(ALL))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as room:
        sound = Path(room, "corpus")
        sound.mkdir()
        corpus.build(sound)
        build_run(sound, Path(room, "building"))
        found = list(shown(worked(names, options, Path(room)), len(names), options.verbose))
    print(summary(found, time.monotonic() - started))
    if options.json:
        options.json.write_text(json.dumps([asdict(finding) for finding in found], indent=1), encoding="utf-8")
    return int(any(finding.outcome.is_fault for finding in found))


def planned(options: argparse.Namespace, families: list[str]) -> list[tuple[str, int, bool]]:
    """Family, seed, and whether in a new process; families take turns."""
    single = [name.split(":") for name in options.family if ":" in name]
    chosen = families if "all" in options.family else [name for name in options.family if ":" not in name]
    for name in (*chosen, *(name for name, _ in single)):
        if name not in families:
            raise SystemExit(f"--family {name}: accepted: all, {', '.join(families)}, or one of them with :SEED")
    names = [(name, int(seed)) for name, seed in single]
    names += [(chosen[i % len(chosen)], options.seed + i // len(chosen)) for i in range(options.count if chosen else 0)]
    every = len(names) / options.fresh if options.fresh else 0
    fresh = {int(i * every) for i in range(options.fresh)} if every else set()
    return [(name, seed, index in fresh) for index, (name, seed) in enumerate(names)]


def build_run(sound: Path, building: Path) -> None:
    """A run of one epoch, trained by the package that is tried; in a process of its own, as all that trains."""
    from . import runner
    from .bench import Bench

    bench = Bench(sound, runner.empty(building))
    case = runner.Case(bench.train(bench.data(), "--name", "run"))
    outcome = runner.run(case, building, runner.Limits(seconds=120))
    assert outcome.kind == "accepted", f"{outcome} {(building / 'stderr').read_text()}"
    shutil.copytree(building / "out" / "run", sound / "run")


def worked(names: list[tuple[str, int, bool]], options: argparse.Namespace, room: Path) -> Iterator[Finding]:
    """All findings, as they come from the processes that run inputs."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    shares = [names[job::options.jobs] for job in range(options.jobs)]
    workers = [context.Process(target=work, args=(share, options, room / str(job), results))
               for job, share in enumerate(shares)]
    for worker in workers:
        worker.start()
    for _ in names:
        while results.empty():
            if not any(worker.is_alive() for worker in workers) and results.empty():
                raise RuntimeError("a process that runs inputs has ended")
            time.sleep(0.01)
        yield results.get()
    for worker in workers:
        worker.join()


def work(share: list[tuple[str, int, bool]], options: argparse.Namespace, room: Path, results: Any) -> None:
    """Run a share of the inputs."""
    from .families import ALL

    sound: dict[str, Any] = {}
    for name, seed, fresh in share:
        if name not in sound:
            sound[name] = ALL[name].corpus(room.parent / "corpus")
        results.put(one(name, seed, fresh, sound[name], options, room))


def one(name: str, seed: int, fresh: bool, sound: Any, options: argparse.Namespace, room: Path) -> Finding:
    """Make an input, run it, and keep it if it fails."""
    from . import runner
    from .bench import Bench
    from .families import ALL

    folder, limits = runner.empty(room / f"{name}-{seed}"), runner.Limits(seconds=options.seconds)
    case = ALL[name].case(seed, sound, Bench(room.parent / "corpus", folder))
    command = (sys.executable, "-m", "tests.fuzz.runner", str(options.source)) if fresh else ()
    outcome = runner.run(case, folder, limits, command)
    if outcome.kind == "traceback" and not outcome.where:
        outcome = replace(outcome, where=runner.locate(case, folder, limits))
    finding = Finding(name, seed, case.brief, fresh, outcome)
    if outcome.is_fault:
        keep(finding, case, folder, options.keep)
    shutil.rmtree(folder, ignore_errors=True)
    return finding


def keep(finding: Finding, case: Any, folder: Path, target: Path) -> None:
    """Copy the input, its command and its output."""
    place = target / f"{finding.family}-{finding.seed}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "case.json").write_text(json.dumps({"case": asdict(case), "outcome": asdict(finding.outcome)}, indent=1))
    for name in ("stdout", "stderr"):
        with contextlib.suppress(OSError):
            shutil.copyfile(folder / name, place / name)
    for path in (folder / "in").rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
            with contextlib.suppress(OSError):
                (place / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / path.relative_to(folder))


# --- what is told ------------------------------------------------------------------------------------------------


def shown(findings: Iterator[Finding], total: int, verbose: bool) -> Iterator[Finding]:
    """The same findings; faults are printed as they come, and how far it is."""
    started = told = time.monotonic()
    faults = 0
    for number, finding in enumerate(findings, 1):
        faults += finding.outcome.is_fault
        if finding.outcome.is_fault or verbose:
            outcome = finding.outcome
            print(f"{outcome.kind:10} {finding.name:18} {outcome.seconds:5.1f} s {outcome.memory >> 20:5} MB  "
                  f"{finding.brief[:110]!a} -> {outcome.detail[:160]} {outcome.where}", flush=True)
        if time.monotonic() - told > 30 or number == total:
            told = time.monotonic()
            print(f"{number} of {total} inputs, {faults} faults, {told - started:.0f} s", flush=True)
        yield finding


def summary(findings: list[Finding], seconds: float) -> str:
    """A table of families and outcomes, the largest memory and time, and the faults by kind."""
    kinds = sorted({finding.outcome.kind for finding in findings})
    counts = {name: Counter(f.outcome.kind for f in findings if f.family == name)
              for name in dict.fromkeys(f.family for f in findings)}
    rows = ["", f"| family | inputs | {' | '.join(kinds)} | slowest, s | most memory, MB |",
            "|---|" + "---|" * (len(kinds) + 3)]
    for name, count in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        of_family = [f for f in findings if name in (f.family, "all")]
        rows.append(f"| {name} | {len(of_family)} | {' | '.join(str(count[kind]) for kind in kinds)} | "
                    f"{max(f.outcome.seconds for f in of_family):.1f} | "
                    f"{max(f.outcome.memory for f in of_family) >> 20} |")
    groups = defaultdict(list)
    for finding in findings:
        if finding.outcome.is_fault:
            groups[finding.kind].append(finding)
    rows += ["", f"{len(findings)} inputs ({sum(f.fresh for f in findings)} in new processes) in {seconds:.0f} s; "
                 f"{sum(map(len, groups.values()))} faults of {len(groups)} kinds"]
    for (kind, what), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = members[0]
        rows.append(f"{len(members):5} {kind:10} {what}: {first.name} {first.brief[:80]!a} -> "
                    f"{first.outcome.detail[:120]}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
