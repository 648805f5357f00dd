"""From a configuration and its split to a finished record, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import traceback
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from csa.config.identity import fingerprint
from csa.config.processes import started_together
from csa.console import PlainConsole
from csa.data.opening import open_loader
from csa.data.pictures import UnreadableImageError
from csa.data.streaming import LostWorkerError, StreamingLoader, telling_lost_workers
from csa.methods.build import build_method
from csa.summary import print_result
from csa.tracking.environment import software
from csa.tracking.follower import Follower
from csa.tracking.lease import HeldError, Lease
from csa.tracking.record import SecondRecord
from csa.training.interruption import Interruption, StoppedError
from csa.training.loop import NotFiniteError, Training
from csa.training.machine import choose
from csa.training.profiling import where_profiled
from csa.training.progress import Progress
from csa.training.result import result, test_outputs
from csa.training.shared_stages import SharedStages
from csa.training.together import LOST, LostProcessError, telling_lost_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.tracking.record import Record

FAILED_STATUS = 1
HELD_STATUS = 3
MODEL = "csa.training.recorded.primary_head"


def train_and_record(
    config: Config, identity: dict[str, Any], split: Split, record: Record, console: PlainConsole
) -> None:
    """Train under a lease, write the record and print it; MLflow follows the record in a process of its own.

    Raises:
        SystemExit: with the status that says why training did not end: 1 failed, 3 held by another
            process, 75 stopped by SIGTERM (start again to continue), 130 stopped by Ctrl-C.
    """
    if started_together().rank:
        _help(config, identity, split, SecondRecord(record.folder))
        return
    tracking = config.tracking
    mirror = Follower(
        tracking.uri, tracking.experiment, record.folder / "mlflow.log", None if tracking.model is False else MODEL
    )
    try:
        record.folder.mkdir(parents=True, exist_ok=True)
        with Lease(record.folder), Interruption() as interruption:
            _begin(config, identity, record)
            if tracking.mlflow:
                mirror.expect(record.folder)
            _train(config, identity, split, record, console, interruption, underway=mirror.start)
        print_result(console, record.result(), record.folder)
    except HeldError as held:
        console.print(f"{held}; nothing was started")
        raise SystemExit(HELD_STATUS) from held
    except StoppedError as stopped:
        record.log(str(stopped))
        console.print(f"stopped; the same command continues {record.folder}")
        raise SystemExit(stopped.status) from stopped
    except (NotFiniteError, UnreadableImageError, LostWorkerError, LostProcessError) as error:
        _fail(record, str(error), console)
        raise SystemExit(FAILED_STATUS) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES):
            _fail(record, traceback.format_exc(), console)
            raise
        _fail(record, f"{error.strerror}: {error.filename or record.folder}", console)
        raise SystemExit(FAILED_STATUS) from error
    except Exception:
        _fail(record, traceback.format_exc(), console)
        raise
    finally:
        # Closed last: by then the files say how the run ended.
        if (note := mirror.close()) is not None:
            console.print(note)


def _begin(config: Config, identity: dict[str, Any], record: Record) -> None:
    if config.rerun:
        record.start_over()
    record.begin(OmegaConf.to_yaml(OmegaConf.structured(config)), identity, fingerprint(identity))


def _help(config: Config, identity: dict[str, Any], split: Split, record: Record) -> None:
    """Train beside the process that writes the record; only a failure is told by this one too."""
    try:
        with Interruption() as interruption:
            _train(config, identity, split, record, PlainConsole(quiet=True), interruption, underway=lambda: None)
    except StoppedError as stopped:
        raise SystemExit(stopped.status) from stopped
    except Exception as error:
        _fail(record, str(error) or traceback.format_exc(), PlainConsole(stderr=True))
        raise SystemExit(FAILED_STATUS) from error


def _train(
    config: Config,
    identity: dict[str, Any],
    split: Split,
    record: Record,
    console: PlainConsole,
    interruption: Interruption,
    underway: Callable[[], None],
) -> None:
    machine = choose(config.runtime, config.protocol)
    record.log(f"started: {machine.describe()}")
    for note in split.notes:
        record.log(note)
    method = build_method(config, split.image_shape, split.mean, split.std, split.counts)
    loader = open_loader(
        split, config.protocol, machine.device, config.seed, workers=machine.workers, share=machine.together.share
    )
    stages = SharedStages(record.folder.parents[1] / "stages", identity, machine, anew=config.rerun)
    if config.runtime.sync_batch_norm and not machine.together.alone:
        method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    with Progress(console, method.stages, method.primary_head, config.runtime.progress) as progress:
        training = Training(
            config, method, loader, split, machine=machine, record=record,
            shared_stages=stages, progress=progress, interruption=interruption, underway=underway,
        )  # fmt: skip
        with telling_lost_processes(machine.together), telling_lost_workers():
            outcome = training.run()
    if config.runtime.profile:
        console.print(where_profiled(record.folder))
    damaged = loader.damaged if isinstance(loader, StreamingLoader) else {}
    for path, reason in damaged.items():
        record.log(f"skipped {path}, which cannot be read as an image ({reason})")
    description = result(config, fingerprint(identity), split, method, outcome)
    told = {"unreadable_images": len(damaged)} if damaged else {}
    record.finish({**description, **told, **machine.describe(), **software()}, test_outputs(outcome))
    record.log("done")
    machine.together.wait()


def _fail(record: Record, reason: str, console: PlainConsole) -> None:
    """Keep why; a disk that takes nothing any more must not hide the reason from the person."""
    console.print(f"failed: {reason}")
    with contextlib.suppress(OSError):
        if reason.startswith(LOST) and (record.folder / "failure.json").exists():
            return  # what ended the other process is the better reason
        record.fail({"reason": reason})
        record.log(f"failed: {reason}")
