"""From a configuration and its split to a finished record, whatever happens in between."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from csa.cli import FAILED_STATUS, HELD_STATUS, disk_trouble, memory_trouble
from csa.config.faults import UserError
from csa.config.host import process_world
from csa.config.identity import fingerprint
from csa.console import PlainConsole
from csa.data.decoding import LostWorkerError, telling_lost_workers
from csa.data.pictures import UnreadableImageError
from csa.data.streaming import open_loader
from csa.methods.method import build_method
from csa.tracking.lease import HeldError, Lease
from csa.tracking.record import SecondRecord, software
from csa.tracking.watcher import Watcher
from csa.training import checkpoint
from csa.training.batch_norm import refuse_single_images_of_any_stage
from csa.training.checkpoint import SharedStages, refuse_other_arithmetic, threads_of_first_stage
from csa.training.distributed import LOST, LostProcessError, telling_lost_processes
from csa.training.evaluation import result, test_outputs
from csa.training.loop import Training
from csa.training.machine import Machine, choose, telling_what_mps_lacks
from csa.training.monitoring import Interruption, Progress, StoppedError, where_profiled
from csa.training.state import NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.methods.method import Method
    from csa.tracking.record import Record


def train_and_record(
    config: Config, identity: dict[str, Any], split: Split, record: Record, console: PlainConsole
) -> None:
    """Train under a lease and write the record; a tracker follows the record in a process of its own.

    Raises:
        UserError: the run cannot be trained, or continued, in this way; nothing was written.
        SystemExit: with the status that says why training did not end: 1 failed, 3 held by another
            process, 75 stopped by SIGTERM (start again to continue), 130 stopped by Ctrl-C.
    """
    if process_world().rank:
        _help(config, identity, split, SecondRecord(record.folder))
        return
    watcher = Watcher(config.tracking, record.folder)
    try:
        _run(config, identity, split, record, console, watcher)
    except HeldError as held:
        console.print(f"{held}; nothing was started")
        raise SystemExit(HELD_STATUS) from held
    except StoppedError as stopped:
        record.log(str(stopped))
        console.print(f"stopped; the same command continues {record.folder}")
        raise SystemExit(stopped.status) from stopped
    except UserError:  # the command's fault, and no failure of the run
        if not record.checkpoint.exists():
            record.take_back()
        raise
    except Exception as error:
        reason = _reason(error, record)
        _fail(record, reason or traceback.format_exc(), console)
        if not reason:
            raise
        raise SystemExit(FAILED_STATUS) from error
    finally:
        # Closed last: by then the files say how the run ended.
        if (note := watcher.close()) is not None:
            console.print(note)


def _run(
    config: Config, identity: dict[str, Any], split: Split, record: Record, console: PlainConsole, watcher: Watcher
) -> None:
    record.folder.mkdir(parents=True, exist_ok=True)
    with Lease(record.folder), Interruption() as interruption:
        if record.state == "done" and not config.rerun:
            return  # another process has finished it just now
        start = _settle(config, identity, split, record)
        _begin(start)
        watcher.expect()
        _train(start, console, interruption, underway=watcher.start)


@dataclass(frozen=True)
class _Start:
    """What is settled before anything is written. config: with the number of threads that was chosen.

    state: of the checkpoint to go on from; passed_over: what was wrong with newer ones.
    """

    config: Config
    identity: dict[str, Any]
    split: Split
    record: Record
    machine: Machine
    method: Method
    stages: SharedStages
    state: dict[str, Any] | None
    passed_over: list[str]


def _settle(config: Config, identity: dict[str, Any], split: Split, record: Record) -> _Start:
    """Look at what there is to go on from, and compute in its way.

    Raises:
        UserError: the configuration asks for another way, or for what this machine has not.
    """
    state, passed_over = (None, []) if config.rerun else checkpoint.load_newest(record.checkpoint)
    machine = choose(config.runtime, config.protocol, None if state is None else state["threads"])
    if state is not None:
        refuse_other_arithmetic(state, machine, config)
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    folder = record.folder.parents[1] / "stages"
    if config.runtime.threads is None and state is None and not config.rerun:
        machine = machine.with_threads(threads_of_first_stage(folder, identity, machine, method))
    stages = SharedStages(folder, identity, machine, anew=config.rerun)
    config = replace(config, runtime=replace(config.runtime, threads=machine.threads))
    return _Start(config, identity, split, record, machine, method, stages, state, passed_over)


def _begin(start: _Start) -> None:
    record = start.record
    if start.config.rerun:
        record.start_over()
    text = OmegaConf.to_yaml(OmegaConf.create(asdict(start.config)))
    record.begin(text, start.identity, fingerprint(start.identity))
    record.log(f"started: {start.machine.describe()}")
    for note in start.split.notes:
        record.log(note)
    for problem in start.passed_over:
        record.log(f"passed over a damaged checkpoint: {problem}")


def _help(config: Config, identity: dict[str, Any], split: Split, record: Record) -> None:
    """Train beside the process that writes the record; only a failure is told by this one too."""
    try:
        with Interruption() as interruption:
            start = _settle(config, identity, split, record)
            _train(start, PlainConsole(quiet=True), interruption, underway=lambda: None)
    except StoppedError as stopped:
        raise SystemExit(stopped.status) from stopped
    except UserError:
        raise
    except Exception as error:
        _fail(record, str(error) or traceback.format_exc(), PlainConsole(stderr=True))
        raise SystemExit(FAILED_STATUS) from error


def _train(start: _Start, console: PlainConsole, interruption: Interruption, underway: Callable[[], None]) -> None:
    config, split, record, machine, method = start.config, start.split, start.record, start.machine, start.method
    with telling_lost_workers():
        loader = open_loader(
            split, config.protocol, machine.device, config.seed, workers=machine.workers, shard=machine.group.shard
        )
    if config.runtime.sync_batch_norm and not machine.group.alone:
        method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if start.state is None:
        refuse_single_images_of_any_stage(method, loader, split.image_shape)
    with Progress(console, method.stages, config.runtime.progress) as progress:
        training = Training(
            config, method, loader, split, machine=machine, record=record,
            shared_stages=start.stages, progress=progress, interruption=interruption, underway=underway,
        )  # fmt: skip
        with telling_lost_processes(machine.group), telling_lost_workers(), telling_what_mps_lacks(machine.device):
            outcome = training.run(start.state)
    if config.runtime.profile:
        console.print(where_profiled(record.folder))
    damaged = loader.damaged
    for path, reason in damaged.items():
        record.log(f"skipped {path}, which cannot be read as an image ({reason})")
    description = result(config, fingerprint(start.identity), split, method, outcome)
    unreadable = {"unreadable_images": len(damaged)} if damaged else {}
    record.finish({**description, **unreadable, **machine.describe(), **software()}, test_outputs(method, outcome))
    record.log("done")
    machine.group.wait()


def _reason(error: Exception, record: Record) -> str:
    """Why a run failed, in a line; nothing of an error that should not have been."""
    if isinstance(error, NotFiniteError):
        return f"{error}; {checkpoint.last_good(record.checkpoint)}"
    if isinstance(error, UnreadableImageError | LostWorkerError | LostProcessError):
        return str(error)
    return disk_trouble(error, record.folder) or memory_trouble(error)


def _fail(record: Record, reason: str, console: PlainConsole) -> None:
    """Keep why; a disk that takes nothing any more must not hide the reason from the person."""
    console.print(f"failed: {reason}")
    with contextlib.suppress(OSError):
        if reason.startswith(LOST) and (record.folder / "failure.json").exists():
            return  # what ended the other process is the better reason
        record.fail({"reason": reason})
        record.log(f"failed: {reason}")
