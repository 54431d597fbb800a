"""ODinW, object detection in the wild: many small tasks, one figure (arXiv:2112.03857, arXiv:2204.08790).

The figure of a collection is the plain mean of COCO's AP over its tasks, with few-shot training first over the seeds of
a task. A leaderboard takes one file with the detections of all tasks.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any, NamedTuple

from prettytable import PrettyTable

from maskrcnn_benchmark.config.loading import REPOSITORY_ROOT
from maskrcnn_benchmark.evaluation.average_precision import NOTHING_TO_FIND
from maskrcnn_benchmark.utils.complete_files import atomic_path, write_complete

ODINW_13 = (
    "AerialMaritimeDrone_large", "Aquarium_Aquarium_Combined.v2-raw-1024.coco", "CottontailRabbits",
    "EgoHands_generic", "NorthAmericaMushrooms_North_American_Mushrooms.v1-416x416.coco", "Packages_Raw", "PascalVOC",
    "Raccoon_Raccoon.v2-raw.coco", "ShellfishOpenImages_raw", "VehiclesOpenImages_416x416", "pistols_export",
    "pothole", "thermalDogsAndPeople",
)  # fmt: skip
ODINW_35 = tuple(sorted((
    *ODINW_13, "AerialMaritimeDrone_tiled", "AmericanSignLanguageLetters_American_Sign_Language_Letters.v1-v1.coco",
    "BCCD_BCCD.v3-raw.coco", "ChessPieces_Chess_Pieces.v23-raw.coco", "DroneControl_Drone_Control.v3-raw.coco",
    "EgoHands_specific", "HardHatWorkers_raw", "MaskWearing_raw", "MountainDewCommercial", "OxfordPets_by-breed",
    "OxfordPets_by-species", "PKLot_640", "ThermalCheetah", "UnoCards_raw", "WildfireSmoke",
    "boggleBoards_416x416AutoOrient_export_", "brackishUnderwater_960x540", "dice_mediumColor_export",
    "openPoetryVision_512x512", "plantdoc_416x416", "selfdrivingCar_fixedLarge_export_", "websiteScreenshots",
)))  # fmt: skip
COLLECTIONS = {"odinw_13": ODINW_13, "odinw_35": ODINW_35}
"""Names of the configuration files of the tasks, sorted as their files are."""

LEADERBOARD_NAMES = {"WildfireSmoke": "WildFireSmoke"}  # where the leaderboard writes a task otherwise
METRICS, DETECTIONS = "metrics.json", "bbox.json"
FINE_TUNED = re.compile(r"ft_task_(?P<task>\d+)(_seed_(?P<seed>\d+))?$")


class Run(NamedTuple):
    """Results of one task: name; seed of a few-shot training, "" for none; folder of the files."""

    task: str
    seed: str
    folder: Path


def task_files(collection: str, folder: str | os.PathLike[str] = "configs") -> list[Path]:
    """Configuration files of the tasks of "odinw_13" or "odinw_35".

    Args:
        folder: a relative one is looked for in the working directory, then in the folder that holds the package.
    Raises: ValueError for another collection, FileNotFoundError for files that are not in the folder.
    """
    if collection not in COLLECTIONS:
        raise ValueError(f"collection {collection!r}: known are {', '.join(COLLECTIONS)}")
    if not Path(folder, collection).is_dir() and Path(REPOSITORY_ROOT, folder, collection).is_dir():
        folder = REPOSITORY_ROOT / folder
    files = [Path(folder, collection, f"{task}.yaml") for task in COLLECTIONS[collection]]
    if missing := [path for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(files)} task files are missing, the first: {missing[0]}")
    return files


def find_runs(root: str | os.PathLike[str], test_set: str = "", collection: str = "odinw_35") -> list[Run]:
    """The results below a folder: those of zero-shot evaluation (.../TASK/TEST SET, or COLLECTION-TASK where both
    collections were evaluated together) and of fine-tuning (.../ft_task_NUMBER_seed_SEED/.../TEST SET, numbered as the
    sorted tasks of the collection).

    Args:
        test_set: name of the set that counts; needed where tasks have results on several.
    Raises: FileNotFoundError without results; ValueError for several results of a task, or an unknown number.
    """
    runs: dict[tuple[str, str], Run] = {}
    for path in sorted(Path(root).rglob(METRICS)):
        folder = path.parent
        if test_set and folder.name != test_set:
            continue
        run = _run_of(folder, Path(root), collection)
        if run is None:
            continue
        key = (run.task, run.seed)
        if key in runs:
            raise ValueError(
                f"two results of task {run.task}{f', seed {run.seed}' if run.seed else ''}: {runs[key].folder} and "
                f"{folder}; name the test set that counts"
            )
        runs[key] = run
    if not runs:
        raise FileNotFoundError(f"no results of {collection} below {os.fspath(root)} (folders TASK with a {METRICS})")
    return list(runs.values())


def _run_of(folder: Path, root: Path, collection: str) -> Run | None:
    tasks = COLLECTIONS[collection]
    for part in reversed(folder.relative_to(root).parts):
        if (task := part.removeprefix(f"{collection}-")) in tasks:
            return Run(task, "", folder)
        if found := FINE_TUNED.match(part):
            number = int(found["task"])
            if not 1 <= number <= len(tasks):
                raise ValueError(f"{folder}: task {number}, but the collection has {len(tasks)} tasks")
            return Run(tasks[number - 1], found["seed"] or "", folder)
    return None


def read_figures(folder: Path) -> dict[str, float]:
    """COCO's figures in a folder of results."""
    return json.loads((folder / METRICS).read_text(encoding="utf-8"))["bbox"]


def summarize_tasks(figures: Mapping[str, Sequence[float]], collection: str = "") -> dict[str, Any]:
    """Figures of a collection.

    Args:
        figures: task -> AP of every seed (one without seeds).
        collection: its name, to tell which tasks are missing.
    Returns:
        tasks: {task: {AP: mean over seeds, std: over seeds, seeds: their number}}; mean, median: over the tasks;
        std: of the mean over all tasks, over the seeds, where all tasks have as many; missing: tasks without results;
        unmeasured: tasks whose AP is -1, as their data show nothing to find, which do not count.
    """
    measured = {task: values for task, values in figures.items() if all(value > NOTHING_TO_FIND for value in values)}
    tasks = {
        task: {"AP": fmean(values), "std": pstdev(values), "seeds": len(values)} for task, values in measured.items()
    }
    averages = [entry["AP"] for entry in tasks.values()]
    numbers = {len(values) for values in measured.values()}
    by_seed = [fmean(column) for column in zip(*measured.values(), strict=True)] if len(numbers) == 1 else []
    return {
        "tasks": tasks,
        "mean": fmean(averages) if averages else None,
        "median": median(averages) if averages else None,
        "std": pstdev(by_seed) if by_seed else None,
        "missing": [task for task in COLLECTIONS.get(collection, ()) if task not in figures],
        "unmeasured": [task for task in figures if task not in measured],
    }


def summarize_runs(runs: Sequence[Run], collection: str) -> dict[str, Any]:
    """`summarize_tasks` of the tasks of a collection among the results."""
    figures: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.task in COLLECTIONS[collection]:
            figures[run.task].append(read_figures(run.folder)["AP"])
    return summarize_tasks(figures, collection)


def summary_table(summary: Mapping[str, Any]) -> PrettyTable:
    """A row per task, then mean and median; "-" for a task whose data show nothing to find."""
    table = PrettyTable(["task", "AP", "std", "seeds"], align="r")
    table.align["task"] = "l"
    for task, entry in summary["tasks"].items():
        table.add_row([task, f"{entry['AP']:.4f}", f"{entry['std']:.4f}", entry["seeds"]])
    for task in summary["unmeasured"]:
        table.add_row([task, "-", "", ""])
    for name in ("mean", "median"):
        if summary[name] is not None:
            table.add_row([name, f"{summary[name]:.4f}", "", ""])
    return table


def write_summary(folder: str | os.PathLike[str], name: str, summary: Mapping[str, Any]) -> None:
    """Writes NAME.json and NAME.csv."""
    write_complete(Path(folder, f"{name}.json"), json.dumps(summary, indent=1) + "\n")
    with atomic_path(Path(folder, f"{name}.csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "AP", "std", "seeds"])
        writer.writerows([task, *entry.values()] for task, entry in summary["tasks"].items())
        writer.writerows([row, summary[row], "", ""] for row in ("mean", "median"))


def write_leaderboard(
    path: str | os.PathLike[str], runs: Sequence[Run], names: Mapping[str, str] = LEADERBOARD_NAMES
) -> None:
    """Writes the detections of all tasks in the form of the leaderboard.

    Zero- and full-shot results are {task: [detection, ...]}; few-shot ones {task: {seed: [detection, ...]}}. A
    detection has image_id, category_id, bbox (x, y, width, height) and score.

    Args:
        names: task -> name on the leaderboard, where it is another.
    Raises: ValueError when results with and without seeds are mixed; FileNotFoundError for missing detections.
    """
    folders = {bool(run.seed): run.folder for run in runs}
    if len(folders) > 1:
        raise ValueError(
            f"results with and without seeds ({folders[True]}, {folders[False]}) cannot go into one leaderboard file"
        )
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[names.get(run.task, run.task)].append(run)
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:  # one task in memory at a time
        for number, (task, of_task) in enumerate(sorted(by_task.items())):
            file.write(f"{',' if number else '{'}\n{json.dumps(task)}: ")
            content = {run.seed: _read_detections(run.folder) for run in of_task}
            json.dump(content if of_task[0].seed else content[""], file)
        file.write("\n}\n" if by_task else "{}\n")


def _read_detections(folder: Path) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox", "score")
    detections = json.loads((folder / DETECTIONS).read_text(encoding="utf-8"))
    for detection in detections:
        if missing := [key for key in keys if key not in detection]:
            raise ValueError(f"{folder / DETECTIONS}: a detection lacks {missing[0]}")
    return [{key: detection[key] for key in keys} for detection in detections]
