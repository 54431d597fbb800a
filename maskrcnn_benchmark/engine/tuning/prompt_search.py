"""Which words find a class best: manual prompts, tried on a few annotated pictures that are encoded once."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_json import is_crowd
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.text.class_names import clean_name, folded_name, has_content, listed
from maskrcnn_benchmark.text.prompt import build_prompts
from maskrcnn_benchmark.utils.complete_files import write_complete

Phrase = dict[str, str]
"""A class in a prompt as DATASETS.CAPTION_PROMPT has it: `prefix`, `name` and `suffix`, of which the name is scored."""
Progress = Callable[[Iterable[Any], int], Iterable[Any]]

logger = logging.getLogger(__name__)


class Tried(NamedTuple):
    """A candidate for a class with AP50 and AP of the class on the pictures, and AP of all classes."""

    class_name: str
    phrase: Phrase
    ap50: float
    ap: float
    mean_ap: float

    @property
    def text(self) -> str:
        """The words in the prompt, what is scored in brackets where there is more."""
        prefix, name, suffix = (self.phrase[key] for key in ("prefix", "name", "suffix"))
        return f"{prefix}[{name}]{suffix}" if prefix or suffix else name


def read_candidates(path: Path, names: Sequence[str]) -> dict[str, list[Phrase]]:
    """A YAML file {class: [candidate, ...]}; a candidate is a text, or a mapping with `name`, `prefix` and `suffix`.

    A mapping without `name` keeps that of the class. Raises: FileNotFoundError; ValueError that names the entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file of candidates '{path}' is not there")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the candidates '{path}' are no YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"the candidates '{path}' must be a mapping from classes to lists of candidates")
    known = {folded_name(name): name for name in names}
    found: dict[str, list[Phrase]] = {}
    for key, entries in content.items():
        name = known.get(folded_name(str(key)))
        if name is None:
            raise ValueError(f"'{path}': the data have no class {key!r}, only {', '.join(names[:20])}")
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"'{path}': the candidates of {key!r} must be a list, not {entries!r}")
        found.setdefault(name, []).extend(_phrase(entry, name, path) for entry in entries)
    return found


def _phrase(entry: Any, name: str, path: Path) -> Phrase:
    given = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(given, dict) or given.keys() - {"prefix", "name", "suffix"}:
        raise ValueError(f"'{path}': candidate {entry!r} of {name!r} is neither a text nor prefix, name and suffix")
    if any(isinstance(value, list | dict) for value in given.values()):
        raise ValueError(f"'{path}': candidate {entry!r} of {name!r} has parts that are no text")
    parts = {key: str(value) for key, value in given.items() if value is not None}
    phrase = {"prefix": "", "name": name, "suffix": ""} | parts
    if not has_content(phrase["name"]):
        raise ValueError(f"'{path}': candidate {entry!r} of {name!r} has a name without a word")
    return _without_outer_blanks(phrase)


def _without_outer_blanks(phrase: Phrase) -> Phrase:
    """Blanks around the name, with which it may have no token, go to what stands before and behind it."""
    prefix, name, suffix = (phrase[key] for key in ("prefix", "name", "suffix"))
    if prefix and name[0].isspace():
        prefix += " "
    if suffix and name[-1].isspace():
        suffix = f" {suffix}"
    return {"prefix": prefix, "name": name.strip(), "suffix": suffix}


class PromptSearch:
    """Measures prompts on the pictures of a dataset, each of which goes through the image encoder once.

    Args:
        detector: its image encoder must not read the text. dataset: without transforms, in COCO format.
    Raises: ValueError for a detector whose features depend on the text, and for data without a box.
    """

    def __init__(self, detector: Detector, dataset: COCODataset, progress: Progress = lambda items, _: items):
        if detector.reads_text:
            raise ValueError(
                f"model {detector.name}: its image encoder reads the text, so that no features can be kept"
            )
        self.detector, self.dataset = detector, dataset
        labels = sorted(dataset.categories())
        self.names = {label: clean_name(dataset.categories()[label]) for label in labels}
        annotations = [one for image in dataset.ids for one in dataset.coco.imgToAnns[image] if not is_crowd(one)]
        self.shown = {self.names[dataset.numbering.label(annotation)] for annotation in annotations}
        if not self.shown:
            raise ValueError(f"no box of the {len(dataset)} pictures shows a single thing, so that no prompt is better")
        self.features = []
        with torch.inference_mode():
            for index in progress(range(len(dataset)), len(dataset)):
                picture = detector.network_input([detector.transform(dataset[index][0], None)[0]])
                self.features.append((dataset.ids[index], detector.model.encode_image(picture)))

    @torch.inference_mode()
    def measure(self, phrases: Mapping[str, Phrase]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Figures of all classes, and AP and AP50 by class, with these phrases by class name."""
        prompts = build_prompts(
            list(self.names.values()),
            self.detector.model.tokenizer,
            labels=list(self.names),
            separation=self.detector.separation,
            max_tokens=self.detector.max_tokens,
            caption_prompt=[phrases[name] for name in self.names.values()],
            verbatim=True,
        )
        evaluator = CocoEvaluator(self.dataset.coco, self.dataset.contiguous_category_id_to_json_id)
        texts = [self.detector.model.encode_text([prompt.caption]) for prompt in prompts]
        for image_id, features in self.features:
            found = [
                self.detector.model.detect(features, text, [prompt.label_to_tokens])[0]
                for text, prompt in zip(texts, prompts, strict=True)
            ]
            evaluator.update(image_id, _joined(found))
        figures = evaluator.summarize()
        by_id = sorted(self.names, key=self.dataset.contiguous_category_id_to_json_id.__getitem__)
        names = [self.names[label] for label in by_id]
        by_class = {
            figure: dict(zip(names, evaluator.table[figure].values(), strict=True))
            for figure in list(evaluator.table)[:2]
        }
        return figures, by_class

    def search(
        self, candidates: Mapping[str, Sequence[Phrase]], progress: Progress = lambda items, _: items
    ) -> tuple[list[Tried], list[Phrase]]:
        """Tries the candidates of a class with the best of the classes before it; returns all, best first for each
        class, and the best phrase of every class (see DATASETS.CAPTION_PROMPT). The plain name is always tried.

        A class that the pictures do not show keeps its name, which is logged.
        Raises: ValueError if that is so for all of `candidates`.
        """
        unseen = [name for name in candidates if name not in self.shown]
        if len(unseen) == len(candidates):
            raise ValueError(
                f"no box of the {len(self.dataset)} pictures is of {listed(unseen)}: give candidates for classes that "
                "they show, or other pictures"
            )
        if unseen:
            logger.warning(
                "no box of the %d pictures is of %s, whose words are not tried", len(self.dataset), listed(unseen)
            )
        candidates = {name: phrases for name, phrases in candidates.items() if name in self.shown}
        plain = {name: {"prefix": "", "name": name, "suffix": ""} for name in self.names.values()}
        best = dict(plain)
        tries = [
            (name, phrase)
            for name, phrases in candidates.items()
            for phrase in [plain[name], *(p for p in phrases if p != plain[name])]
        ]
        results: dict[str, list[Tried]] = {}
        for name, phrase in progress(tries, len(tries)):
            figures, by_class = self.measure({**best, name: phrase})
            ap, ap50 = (values[name] for values in by_class.values())
            ranked = results.setdefault(name, [])
            ranked.append(Tried(name, phrase, ap50, ap, figures["AP"]))
            ranked.sort(key=lambda tried: (-tried.ap, -tried.mean_ap))
            if len(ranked) == 1 + sum(p != plain[name] for p in candidates[name]):
                best[name] = ranked[0].phrase
        return [tried for ranked in results.values() for tried in ranked], list(best.values())


def _joined(found: Sequence[BoxList]) -> BoxList:
    return found[0] if len(found) == 1 else cat_boxlist(list(found))


def write_caption_prompt(phrases: Sequence[Phrase], path: Path) -> Path:
    """A file for DATASETS.CAPTION_PROMPT."""
    write_complete(path, yaml.safe_dump(list(phrases), sort_keys=False, allow_unicode=True))
    return path
