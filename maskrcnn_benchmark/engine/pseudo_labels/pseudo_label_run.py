"""Pseudo-labels of many pairs: shards shared out among processes, resumed after a stop, joined to a data set."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from maskrcnn_benchmark.data.image_text_pairs import PairShard
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label import (
    FILES,
    PHRASES,
    RAISE,
    LabelOptions,
    PseudoLabeler,
    ShardReport,
)
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import completed_folder, remove_partial_folders, write_complete

logger = logging.getLogger(__name__)

SHARDS, CLAIMS, LOCK = "shards", ".claims", ".lock"
DESCRIPTION, STATISTICS, DATASET = "run.json", "statistics.json", "data.yaml"
PART = "captions.{}.yaml"
"""Of shard number i, for data sets in numbered parts (DATASETS.BING_INDEX_LIST)."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        total: numbers over all finished shards of the folder; unique_phrases: texts of phrases that have a box.
        finished: shards of this command that are finished, of `shards`.
        failed: why the others are not, by name.
    """

    total: ShardReport
    unique_phrases: int
    finished: int
    shards: int
    failed: dict[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether every shard of the command is finished."""
        return self.finished == self.shards

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        total = self.total
        return {
            "pairs": total.pairs,
            "rows": total.rows,
            "boxes": total.boxes,
            "unique_phrases": self.unique_phrases,
            "skipped": total.skipped,
            "shards": {"finished": self.finished, "of": self.shards, "failed": self.failed},
        }

    def as_text(self) -> str:
        """For a person."""
        total = self.total
        lines = [
            f"pairs           {total.pairs:,}",
            f"with boxes      {total.rows:,}",
            f"boxes           {total.boxes:,}",
            f"unique phrases  {self.unique_phrases:,}",
            *(f"left out        {count:,} ({reason})" for reason, count in sorted(total.skipped.items())),
            f"shards          {self.finished:,} of {self.shards:,}",
        ]
        return "\n".join(lines)


class _Done(NamedTuple):
    """What a process did: the shards that it finished, and the others with the reason."""

    finished: list[str]
    failed: dict[str, str]


def label_pairs(
    shards: Sequence[PairShard],
    out: Path,
    make_detector: Callable[[], Detector],
    options: LabelOptions,
    description: Mapping[str, Any],
) -> Outcome:
    """Labels the shards that are not finished yet; all processes call it, with the same arguments.

    Processes take shards as they become free, from a folder that all of them see. A shard is a folder below
    out/shards, which appears when it is complete. When all are finished, out/data.yaml names them as one data set.

    Args:
        make_detector: the teacher, built only where something is left to do.
        description: what the labels depend on beside the pairs, in JSON's types.
    Returns: the outcome, on every process.
    Raises: ValueError where the folder belongs to other labels or to a run that is still going on.
    """
    with _lock(out):
        todo = _prepare(shards, out, description)
        done = _Done([], {})
        if todo:
            logger.info("%d of %d shards are to be labelled", len(todo), len(shards))
            todo = sorted(todo, key=lambda shard: -shard.size)  # large ones first, so that the processes end together
            done = _label(todo, out, PseudoLabeler(make_detector(), options))
        outcome = _join(shards, todo, out, comm.all_gather(done))
    return outcome


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keeps a second run off the folder; the first process holds the lock for all."""
    lock, problem = FileLock(out / LOCK, timeout=0), ""
    if comm.is_main_process():
        try:
            (out / SHARDS).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            problem = f"another run is writing to '{out}': wait for its end, or name another folder"
        except OSError as error:
            problem = f"nothing can be written to '{out}': {error.strerror}"
    _raise_everywhere(problem)
    try:
        yield
    finally:
        lock.release()


def _raise_everywhere(problem: str) -> None:
    """Raises: ValueError on all processes if the first has a problem."""
    problem = comm.broadcast_object(problem)
    if problem:
        raise ValueError(problem)


def _prepare(shards: Sequence[PairShard], out: Path, description: Mapping[str, Any]) -> list[PairShard]:
    """The shards that are not finished; what a killed run has left is removed."""
    problem, names = "", []
    if comm.is_main_process():
        left = remove_partial_folders(out / SHARDS)
        if left:
            logger.warning("%d shards that were not finished begin anew", left)
        shutil.rmtree(out / CLAIMS, ignore_errors=True)
        (out / CLAIMS).mkdir()
        try:
            _check_description(out, description)
            names = [shard.name for shard in shards if not _is_finished(shard, out)]
        except ValueError as error:
            problem = str(error)
    _raise_everywhere(problem)
    chosen = set(comm.broadcast_object(names))
    return [shard for shard in shards if shard.name in chosen]


def _check_description(out: Path, description: Mapping[str, Any]) -> None:
    path, wanted = out / DESCRIPTION, json.loads(json.dumps(description))
    if not path.is_file() or not any((out / SHARDS).iterdir()):
        write_complete(path, json.dumps(wanted, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{key} {found.get(key)!r} there, {wanted.get(key)!r} now"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise ValueError(f"'{out}' has labels that were made otherwise ({'; '.join(different)}): name another folder")


def _is_finished(shard: PairShard, out: Path) -> bool:
    folder = out / SHARDS / shard.name
    if not folder.is_dir():
        return False
    found, wanted = ShardReport.read(folder).source, json.loads(json.dumps(shard.source))
    if found != wanted:
        raise ValueError(
            f"the pairs of the finished shard '{folder}' have changed ({found} there, {wanted} now): remove the "
            "folder to label them again, or name another one"
        )
    return True


def _label(todo: Sequence[PairShard], out: Path, labeler: PseudoLabeler) -> _Done:
    """Labels shards that no other process has taken, until none is left."""
    done = _Done([], {})
    started, total = time.monotonic(), ShardReport()
    with tqdm(
        total=sum(shard.size for shard in todo),
        unit=todo[0].unit,
        unit_scale=todo[0].unit == "B",
        desc="pseudo-labels",
        disable=None if comm.is_main_process() else True,
    ) as bar:

        def show(amount: int, report: ShardReport) -> None:
            bar.set_postfix(rows=total.rows + report.rows, boxes=total.boxes + report.boxes, refresh=False)
            bar.update(amount)

        for shard in todo:
            if not _claim(out, shard):
                bar.update(shard.size)  # another process has it
                continue
            try:
                with completed_folder(out / SHARDS / shard.name) as folder:
                    report = labeler.label(shard, folder, show)
            except ValueError as error:
                if labeler.options.on_error == RAISE:
                    raise
                logger.error("shard %s: %s", shard.name, error)
                done.failed[shard.name] = str(error)
                continue
            total.add(report)
            done.finished.append(shard.name)
            rate = total.pairs / max(time.monotonic() - started, 1e-9)
            logger.info(
                "shard %s: %d pairs, %d boxes; this process: %d shards, %.1f pairs/s",
                shard.name, report.pairs, report.boxes, len(done.finished), rate,
            )  # fmt: skip
    return done


def _claim(out: Path, shard: PairShard) -> bool:
    """Takes a shard for this process; False if another one has it."""
    try:
        (out / CLAIMS / shard.name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _join(shards: Sequence[PairShard], todo: Sequence[PairShard], out: Path, done: Sequence[_Done]) -> Outcome:
    """Makes one data set of the finished shards and sums up their numbers, in the first process."""
    outcome, problem = None, ""
    if comm.is_main_process():
        _assert_once(todo, done)
        failed = {name: reason for process in done for name, reason in process.failed.items()}
        finished = {
            folder.name: folder for folder in sorted((out / SHARDS).iterdir()) if not folder.name.startswith(".")
        }
        missing = [shard.name for shard in shards if shard.name not in finished and shard.name not in failed]
        if missing:
            problem = f"{len(missing)} shards are not in '{out}', the first {missing[0]}: all machines must share it"
        else:
            outcome = _write_outcome(shards, finished, failed, out)
        shutil.rmtree(out / CLAIMS, ignore_errors=True)
    _raise_everywhere(problem)
    return comm.broadcast_object(outcome)


def _assert_once(todo: Sequence[PairShard], done: Sequence[_Done]) -> None:
    """Asserts that every shard was labelled, or failed, in one process."""
    names = sorted(name for process in done for name in (*process.finished, *process.failed))
    wanted = sorted(shard.name for shard in todo)
    assert names == wanted, (
        f"{len(wanted)} shards were shared out, but {len(names)} were labelled, {len(set(names))} different ones: "
        "do all machines share the output folder?"
    )


def _write_outcome(
    shards: Sequence[PairShard], finished: Mapping[str, Path], failed: dict[str, str], out: Path
) -> Outcome:
    total = ShardReport()
    for folder in finished.values():
        report = ShardReport.read(folder)
        report.check()
        total.add(report)
    count = sum(shard.name in finished for shard in shards)
    outcome = Outcome(total, count_unique_phrases(finished.values()), count, len(shards), failed)
    if outcome.is_complete:
        names = {key: [f"{SHARDS}/{name}/{file}" for name in finished] for key, file in FILES.items()}
        for number, name in enumerate(finished):
            part = {key: f"{SHARDS}/{name}/{file}" for key, file in FILES.items()}
            write_complete(out / PART.format(number), yaml.safe_dump(part, sort_keys=False))
        write_complete(out / DATASET, yaml.safe_dump(names, sort_keys=False))
    write_complete(out / STATISTICS, json.dumps(outcome.as_dict(), indent=2) + "\n")
    return outcome


def count_unique_phrases(folders: Iterable[Path]) -> int:
    """Different phrases with boxes of finished shards. It takes eight bytes for each: texts are compared by hashes."""
    different = np.zeros(0, dtype=np.uint64)
    for folder in folders:
        with (folder / PHRASES).open(encoding="utf-8") as file:
            phrases = (line.rpartition("\t")[0] for line in file)
            hashes = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in phrases]
        different = np.union1d(different, np.array(hashes, dtype=np.uint64))
    return len(different)
