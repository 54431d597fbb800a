"""Two images of Flickr30k Entities, made up, small enough to work out every recall by hand."""

from pathlib import Path

SENTENCES = {
    "100": (
        "[/EN#1/people Two men] walk [/EN#2/animals/other a dog] near [/EN#3/scene the sea] "
        "as [/EN#0/notvisual they] talk .\n"
        "\n"
        "It is [/EN#3/scene the sea] .\n"
        "[/EN#2/animals/other A brown dog] looks at [/EN#1/people two men] .\n"
    ),
    "200": "[/EN#7/vehicles A car] on [/EN#8/other the road]\n",
}
OBJECTS = {
    "100": [
        (["1"], (0, 0, 10, 10)),
        (["1"], (20, 0, 30, 10)),
        (["2"], (50, 50, 90, 90)),
        (["3"], "scene"),
    ],
    "200": [(["7", "8"], (10, 10, 20, 20)), (["9"], "nobndbox")],
}


def write_flickr(folder: Path, subset: str = "test") -> Path:
    """Writes the files; returns the folder."""
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"{subset}.txt").write_text("100\n200\n")
    for image_id, text in SENTENCES.items():
        (folder / "Sentences" / f"{image_id}.txt").write_text(text)
        objects = "".join(_object(names, box) for names, box in OBJECTS[image_id])
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
    return folder


def _object(names: list[str], box: tuple[int, int, int, int] | str) -> str:
    text = "".join(f"<name>{name}</name>" for name in names)
    if isinstance(box, str):
        return f"<object>{text}<{box}>1</{box}></object>"
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>{text}<bndbox>{corners}</bndbox></object>"
