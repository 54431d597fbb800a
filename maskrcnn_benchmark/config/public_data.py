"""The datasets that are offered on public servers: which files they have, where they lie, and where they go.

A table without code: `maskrcnn_benchmark.data.fetch` downloads, DATA.md says what each set is and needs.
"""

from typing import NamedTuple

HUGGING_FACE = "https://huggingface.co"
GLIP_FILES = f"{HUGGING_FACE}/GLIPModel/GLIP/resolve/main"
MDETR_FILES = "https://zenodo.org/records/4729015/files"
COCO_FILES = "http://images.cocodataset.org"
GQA_FILES = "https://downloads.cs.stanford.edu/nlp/data/gqa"


class PublicFile(NamedTuple):
    """One file of a public server.

    Attributes:
        server: first part of the address; a mirror replaces it.
        path: the rest of the address.
        target: where the file goes, below the data folder; the folder to unpack into, for an archive.
        is_archive: unpack it.
        flatten: the archive's own folders are left out.
        sha256: checksum where it is known; otherwise the one that the server announces is checked.
    """

    server: str
    path: str
    target: str
    is_archive: bool = False
    flatten: bool = False
    sha256: str | None = None


class PublicSet(NamedTuple):
    """Files that belong together, and what they are."""

    help: str
    files: tuple[PublicFile, ...]


ODINW_ARCHIVES = (
    "AerialMaritimeDrone", "AmericanSignLanguageLetters", "Aquarium", "BCCD", "ChessPieces", "CottontailRabbits",
    "DroneControl", "EgoHands", "HardHatWorkers", "MaskWearing", "MountainDewCommercial", "NorthAmericaMushrooms",
    "OxfordPets", "PKLot", "Packages", "PascalVOC", "Raccoon", "ShellfishOpenImages", "ThermalCheetah", "UnoCards",
    "VehiclesOpenImages", "WildfireSmoke", "boggleBoards", "brackishUnderwater", "dice", "openPoetryVision", "pistols",
    "plantdoc", "pothole", "selfdrivingCar", "thermalDogsAndPeople", "vector", "websiteScreenshots",
)  # fmt: skip
ODINW_13 = (
    "AerialMaritimeDrone", "Aquarium", "CottontailRabbits", "EgoHands", "NorthAmericaMushrooms", "Packages",
    "PascalVOC", "Raccoon", "ShellfishOpenImages", "VehiclesOpenImages", "pistols", "pothole", "thermalDogsAndPeople",
)  # fmt: skip


def _glip_annotations(name: str) -> PublicFile:
    return PublicFile(GLIP_FILES, f"mdetr_annotations/{name}.json", f"mdetr_annotations/{name}.json")


def _odinw(name: str) -> PublicFile:
    return PublicFile(GLIP_FILES, f"odinw_35/{name}.zip", "odinw", is_archive=True)


def _zip(server: str, path: str, target: str) -> PublicFile:
    return PublicFile(server, f"{path}.zip", target, is_archive=True)


PUBLIC_SETS: dict[str, PublicSet] = {
    "mdetr_annotations": PublicSet(
        "all of MDETR's annotations: mixed, Flickr30k, RefExp, GQA, PhraseCut",
        (PublicFile(MDETR_FILES, "mdetr_annotations.tar.gz", "mdetr_annotations", is_archive=True, flatten=True),),
    ),
    "flickr30k_annotations": PublicSet(
        "sentences and boxes of Flickr30k, as GLIP used them",
        tuple(_glip_annotations(f"final_flickr_separateGT_{split}") for split in ("train", "val", "test")),
    ),
    "mixed_no_coco_annotations": PublicSet(
        "mixed grounding data without COCO pictures, as GLIP used them",
        (_glip_annotations("final_mixed_train_no_coco"),),
    ),
    "lvis_minival": PublicSet(
        "annotations of the 4,809 pictures of LVIS minival",
        (
            PublicFile(
                GLIP_FILES,
                "lvis_v1_minival_inserted_image_name.json",
                "coco/annotations/lvis_v1_minival_inserted_image_name.json",
            ),
        ),
    ),
    "coco_2017_annotations": PublicSet(
        "boxes of COCO 2017 train and val", (_zip(COCO_FILES, "annotations/annotations_trainval2017", "coco"),)
    ),
    "coco_2017_val": PublicSet("5,000 pictures of COCO", (_zip(COCO_FILES, "zips/val2017", "coco"),)),
    "coco_2017_train": PublicSet("118,287 pictures of COCO", (_zip(COCO_FILES, "zips/train2017", "coco"),)),
    "coco_2014_train": PublicSet(
        "82,783 pictures of COCO, for mixed grounding and RefExp", (_zip(COCO_FILES, "zips/train2014", "coco"),)
    ),
    "gqa_images": PublicSet("pictures of GQA and Visual Genome", (_zip(GQA_FILES, "images", "gqa"),)),
    "odinw_13": PublicSet("the 13 tasks of configs/odinw_13", tuple(map(_odinw, ODINW_13))),
    "odinw_35": PublicSet("all ODinW archives", tuple(map(_odinw, ODINW_ARCHIVES))),
    **{f"odinw/{name}": PublicSet(f"ODinW task {name}", (_odinw(name),)) for name in ODINW_ARCHIVES},
}
