"""Hashes of the data that a sweep trains on; computed in a process of its own, where they are not remembered.

python -m csa.sweep.splits     pickled questions on stdin, pickled answers on stdout
"""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.config.faults import Fault, UserError
from csa.data.cache_folder import read_cache, write_cache
from csa.data.dataset import load_split, source_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csa.config.schema import Config, DatasetConfig

# Raised when a change of this package changes what a split holds.
SPLIT_VERSION = 4


def split_hash(config: DatasetConfig, data_dir: str | Path, download: bool, cache_dir: str | Path) -> str:
    """``load_split(...).hash``, remembered in ``<cache_dir>/splits.json``.

    The memory is trusted as long as the configuration is the same and the data's files keep their stamps. Raises
    ``UserError`` as ``load_split`` does.
    """
    known = remembered(config, data_dir, cache_dir)
    if known is None:
        known = load_split(config, data_dir, download).hash
        cache = _cache_file(cache_dir)
        key = fingerprint(config, data_dir)  # a download may have brought the files only now
        write_cache(cache, {**read_cache(cache), key: known}, indent=1, sort_keys=True)
    return known


def remembered(config: DatasetConfig, data_dir: str | Path, cache_dir: str | Path) -> str | None:
    """What ``split_hash`` has found before, without reading the data."""
    try:
        return read_cache(_cache_file(cache_dir)).get(fingerprint(config, data_dir))
    except OSError:  # of files that cannot be reached nothing is known
        return None


def fingerprint(config: DatasetConfig, data_dir: str | Path) -> str:
    """Hash of the configuration and of path, size, times of change and inode of each file that it reads."""
    files = source_of(config).files(config, Path(data_dir).expanduser())
    stamps = [
        (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for file in files
        for stat in [file.stat()]
    ]
    content = json.dumps([SPLIT_VERSION, asdict(config), stamps], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _cache_file(cache_dir: str | Path) -> Path:
    return Path(cache_dir).expanduser() / "splits.json"


Question = tuple["DatasetConfig", str, bool, str]
"""As ``split_hash`` takes it."""
Answer = str | tuple[Fault, ...]


def data_key(config: Config) -> str:
    """The same for configurations of the same data."""
    return repr((config.dataset, config.data_dir))


def split_hashes(configs: Iterable[Config]) -> dict[str, Answer]:
    """By ``data_key``, the hash of the split, or the faults that keep it from being read.

    Data that may be downloaded is. Reading may take heavy imports, which the planning process is kept free of.

    Raises:
        UserError: the process that reads was killed.
        OSError: the disk takes or gives nothing more.
    """
    known: dict[str, Answer] = {}
    missing: dict[str, Question] = {}
    for config in configs:
        key, found = data_key(config), remembered(config.dataset, config.data_dir, config.output_root)
        if found is None:
            missing[key] = (config.dataset, config.data_dir, config.download, config.output_root)
        else:
            known[key] = found
    return known | _ask(missing) if missing else known


def _ask(questions: dict[str, Question]) -> dict[str, Answer]:
    done = subprocess.run(
        [sys.executable, "-m", "csa.sweep.splits"], input=pickle.dumps(questions), stdout=subprocess.PIPE,
        start_new_session=True, check=False,
    )  # fmt: skip
    if done.returncode < 0:
        problem = f"the process that reads the data was killed by {signal.Signals(-done.returncode).name}"
        raise UserError(Fault("dataset", None, problem, "data that memory has room for"))
    done.check_returncode()  # what else may end it has told its traceback
    answers: dict[str, Answer] | OSError = pickle.loads(done.stdout)  # noqa: S301 (our own process)
    if isinstance(answers, OSError):
        raise answers
    return answers


def _answer(question: Question) -> Answer:
    try:
        return split_hash(*question)
    except UserError as error:
        return error.faults


def question_of_parent() -> Any:
    """What the parent of such a process asks of it. Where the parent was killed there is nobody to answer."""
    try:
        return pickle.load(sys.stdin.buffer)  # noqa: S301 (our own parent)
    except (EOFError, pickle.UnpicklingError):
        raise SystemExit from None


def main() -> None:
    stdout, sys.stdout = sys.stdout, sys.stderr  # a download tells its progress
    questions: dict[str, Question] = question_of_parent()
    answers: dict[str, Answer] | OSError
    try:
        answers = {key: _answer(question) for key, question in questions.items()}
    except OSError as error:
        answers = error
    stdout.buffer.write(pickle.dumps(answers))
    stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of this process alone: no traceback where the parent was killed
    main()
