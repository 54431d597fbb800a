"""Deterministic detections on lvis_val_100.json (real LVIS v0.5 annotations, 100 images), without random numbers.

Every detection is a closed-form function of the annotation id, so any implementation of the LVIS metric can be
compared on them. EXPECTED holds what the reference evaluator, lvis-api, prints for them (6 decimals):
`std` keeps 300 detections per image; `fixed` keeps all of them (max_dets = -1; no class reaches the 10,000 cap).
"""

EXPECTED = {
    "perfect": {"count": 977, "std": {"AP": 1.0}, "fixed": {"AP": 1.0}},
    "noisy": {
        "count": 1546,
        "std": {
            "AP": 0.537707,
            "AP50": 0.961917,
            "AP75": 0.503957,
            "APs": 0.539838,
            "APm": 0.550732,
            "APl": 0.566045,
            "APr": 0.8,
            "APc": 0.535373,
            "APf": 0.536497,
            "AR@300": 0.590277,
            "ARs@300": 0.578774,
            "ARm@300": 0.593223,
            "ARl@300": 0.588613,
        },
        "fixed": {
            "AP": 0.537707,
            "AP50": 0.961917,
            "AP75": 0.503957,
            "APs": 0.539838,
            "APm": 0.550732,
            "APl": 0.566045,
            "APr": 0.8,
            "APc": 0.535373,
            "APf": 0.536497,
        },
    },
    "crowded": {
        "count": 18696,
        "std": {
            "AP": 0.264255,
            "AP50": 0.470326,
            "AP75": 0.259523,
            "APs": 0.292506,
            "APm": 0.306158,
            "APl": 0.22162,
            "APr": 0.0,
            "APc": 0.301165,
            "APf": 0.258953,
            "AR@300": 0.304259,
        },
        "fixed": {
            "AP": 0.504729,
            "AP50": 0.901903,
            "AP75": 0.476565,
            "APs": 0.513173,
            "APm": 0.550732,
            "APl": 0.566045,
            "APr": 0.8,
            "APc": 0.535373,
            "APf": 0.49709,
        },
    },
}


def _jitter(annotation, k):
    x, y, w, h = annotation["bbox"]
    i = annotation["id"]
    dx = ((i * 7 + k * 3) % 11 - 5) / 40.0 * w
    dy = ((i * 5 + k * 2) % 13 - 6) / 48.0 * h
    return [x + dx, y + dy, w * (1 + ((i * 3 + k) % 9 - 4) / 32.0), h * (1 + ((i * 2 + k) % 7 - 3) / 28.0)]


def _score(i, k):
    return round(((i * 37 + k * 17) % 101 + 1) / 102.0, 6)


def _detection(annotation, category, box, score):
    return {"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": score}


def make(data: dict) -> dict[str, list[dict]]:
    """{name of EXPECTED: detections as result dicts (xywh boxes)} for the parsed annotation file."""
    annotations = data["annotations"]
    perfect = [_detection(a, a["category_id"], a["bbox"], _score(a["id"], 0)) for a in annotations]
    noisy = []
    for a in annotations:
        noisy.append(_detection(a, a["category_id"], _jitter(a, 0), _score(a["id"], 1)))
        if a["id"] % 3 == 0:
            noisy.append(_detection(a, a["category_id"], _jitter(a, 5), _score(a["id"], 2)))
        if a["id"] % 4 == 0:
            noisy.append(_detection(a, a["category_id"] % 1230 + 1, a["bbox"], _score(a["id"], 3)))
    # 350 confident false positives of one verified-negative category push true boxes past rank 300
    crowded = [dict(d, score=round(d["score"] * 0.5, 6)) for d in noisy]
    for n, image in enumerate(sorted(data["images"], key=lambda i: i["id"])):
        if image["neg_category_ids"] and n % 2 == 0:
            category = sorted(image["neg_category_ids"])[0]
            for j in range(350):
                box = [(j * 13) % 97 + 1.0, (j * 29) % 89 + 1.0, 20.0 + j % 7, 15.0 + j % 5]
                score = round(0.6 + ((j * 53) % 349) / 1000.0, 6)
                crowded.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    return {"perfect": perfect, "noisy": noisy, "crowded": crowded}
