"""What becomes a pseudo-label, and what is left out."""

import pytest
from fake_detector import fake_detector, planted_score
from pair_files import CAPTIONS, write_caption_tsv, write_json_lines, write_webdataset
from PIL import Image

from maskrcnn_benchmark.data.datasets.caption_record import read_caption_record
from maskrcnn_benchmark.data.datasets.caption_tsv import CaptionTSV
from maskrcnn_benchmark.data.datasets.tsv_rows import TSVRows
from maskrcnn_benchmark.data.image_text_pairs import find_shards
from maskrcnn_benchmark.engine.pseudo_labels import pseudo_label
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label import LabelOptions, PseudoLabeler, ShardReport
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

PHRASES = [["a dog", "a red car"], ["cats"], ["a bird", "a house"], ["the old tree"], ["a ring", "a book", "a key"]]


def label(path, out, **options) -> ShardReport:
    out.mkdir(exist_ok=True)
    (shard,) = find_shards([str(path)])
    return PseudoLabeler(fake_detector(), LabelOptions(**options)).label(shard, out)


def records(folder, version: str = "v1") -> dict:
    rows = TSVRows(folder / "data.yaml")
    return {rows.key(i): read_caption_record(rows.label(i), version) for i in range(len(rows))}


def named(record) -> list[str]:
    return [record.caption[begin:end] for ((begin, end),) in record.spans]


@pytest.mark.parametrize(
    "write", [write_json_lines, write_caption_tsv, lambda folder: write_webdataset(folder / "pairs.tar")]
)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_phrases_and_pictures(tmp_path, write, version, bert_vocabulary):
    path = write(tmp_path)
    steps = []
    (shard,) = find_shards([str(path)])
    (tmp_path / "out").mkdir()
    labeler = PseudoLabeler(fake_detector(), LabelOptions(version=version, batch_size=2))
    report = labeler.label(shard, tmp_path / "out", lambda amount, report: steps.append((amount, report.rows)))
    assert (report.pairs, report.rows, report.boxes, report.skipped) == (5, 5, 9, {})
    assert sum(amount for amount, _ in steps) == shard.size and [rows for _, rows in steps] == [2, 4, 5, 5]
    assert ShardReport.read(tmp_path / "out") == report and report.source == shard.source
    found = list(records(tmp_path / "out", version).values())
    assert [record.caption for record in found] == list(CAPTIONS) and list(map(named, found)) == PHRASES
    assert found[4].scores == [round(planted_score(number), 4) for number in (1, 2, 3)]
    counts = (tmp_path / "out" / "phrases.tsv").read_text().splitlines()
    assert counts == sorted(f"{phrase}\t1" for phrases in PHRASES for phrase in phrases)
    data = CaptionTSV(
        tmp_path / "out" / "data.yaml", tokenizer=build_tokenizer(bert_vocabulary), caption_format_version=version
    )
    image, target, _ = data[4]
    assert image.getpixel((0, 0)) == (40, 100, 50) and image.size == target.size == (100, 80) and len(target) == 3
    (found,) = fake_detector().predict(image, CAPTIONS[4], 0.5)
    assert target.bbox.tolist() == [pytest.approx(box, abs=0.01) for box in found.boxes.tolist()]


def test_selection(tmp_path):
    path = write_json_lines(tmp_path, ["a ring, a book, a key, a cup, a hat", "a dog"])
    assert [len(record.boxes) for record in _selected(tmp_path, path, threshold=0.65)] == [3, 1]
    assert [len(record.boxes) for record in _selected(tmp_path, path, threshold=0.0)] == [5, 1]
    assert [len(record.boxes) for record in _selected(tmp_path, path, threshold=0.0, min_boxes=2)] == [5]
    assert [len(record.boxes) for record in _selected(tmp_path, path, threshold=1.0, min_boxes=0)] == [0, 0]
    assert [len(record.boxes) for record in _selected(tmp_path, path, threshold=0.0, nms=0.5, top=1)] == [5, 1]


def _selected(tmp_path, path, **options) -> list:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    report = label(path, out, **options)
    assert report.skipped.get("too few boxes", 0) == 2 - report.rows
    return list(records(out).values())


def test_boxes_of_a_phrase_that_overlap(tmp_path):
    """The fake network gives a label one box; here it comes twice, shifted by a pixel, the worse one first."""
    detector = fake_detector()
    once = detector.model._found

    def twice(size, labels):
        boxes = once(size, labels)
        again = boxes[[*range(len(boxes))] * 2]
        again.bbox[: len(boxes)] += 1
        again.extra_fields["scores"] = again.get_field("scores").clone()
        again.extra_fields["scores"][: len(boxes)] -= 0.05
        return again

    detector.model._found = twice
    (shard,) = find_shards([str(write_json_lines(tmp_path, ["a dog and a cat"]))])
    for nms, scores in ((None, [0.9, 0.85, 0.8, 0.75]), (0.5, [0.9, 0.8])):
        out = tmp_path / f"out{nms}"
        out.mkdir()
        PseudoLabeler(detector, LabelOptions(nms=nms)).label(shard, out)
        (record,) = records(out).values()
        assert record.scores == scores


def test_long_captions_keep_their_places(tmp_path):
    """A caption of more tokens than fit a prompt is read in pieces; its spans are those of the whole."""
    caption = "; ".join(f"a dog number {number} and the red car" for number in range(60))
    out = tmp_path / "out"
    report = label(write_json_lines(tmp_path, [caption]), out, threshold=0.0)
    (record,) = records(out).values()
    assert report.boxes == len(record.boxes) > 100 and record.caption == caption
    assert set(named(record)) <= {"a dog number", "the red car", *(f"a dog number {number}" for number in range(60))}
    assert max(end for ((_, end),) in record.spans) == len(caption)


def spoilt(folder):
    """Five pairs, of which one is good."""
    path = write_json_lines(folder, ["a dog", " . ", "a cat", "of and with", "a cup"])
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "4.png").unlink()
    path.write_text(path.read_text() + '{"caption": "a hat"}\n')
    return path


def test_faults_are_left_out_and_reported(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pseudo_label, "SHOWN_FAULTS", 1)
    report = label(spoilt(tmp_path), tmp_path / "out")
    wanted = {"broken picture": 2, "empty caption": 1, "no noun phrase": 1, "unreadable record": 1}
    assert report.skipped == wanted and (report.pairs, report.rows, report.boxes) == (6, 1, 1)
    assert list(records(tmp_path / "out")) == ["pairs:1"]
    rows = [line.split("\t") for line in (tmp_path / "out" / "skipped.tsv").read_text().splitlines()]
    assert {row[0]: row[2] for row in rows}["pairs:3"] == "broken picture" and len(rows) == 5
    shown = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out")]
    assert len(shown) == 3 and all(text.endswith("more of them are only counted") for text in shown)
    assert any("pairs:3 (2.png): broken picture: cannot read image 2.png" in text for text in shown)


def test_the_first_fault_stops_on_request(tmp_path):
    with pytest.raises(ValueError, match=r"pairs:2 \(1.png\): empty caption"):
        label(spoilt(tmp_path), tmp_path / "out", on_error="raise")
    assert not (tmp_path / "out" / "report.json").exists()


def test_captions_that_no_prompt_holds(tmp_path):
    report = label(write_json_lines(tmp_path, ["a " + "big " * 300 + "dog", "a cat"]), tmp_path / "out")
    assert report.skipped == {"unusable caption": 1} and report.rows == 1


def test_pictures_are_labelled_as_they_are_stored(tmp_path):
    """The data sets that read the rows do not turn pictures upright, so neither does the teacher's picture."""
    path = write_json_lines(tmp_path, ["a dog"])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (60, 40), "red").save(tmp_path / "0.png", exif=exif)
    label(path, tmp_path / "out")
    row = TSVRows(tmp_path / "out" / "data.yaml")
    (found,) = fake_detector().predict(Image.new("RGB", (60, 40)), "a dog")
    assert row.label(0)["img_w"] == 60 and row.size(0) == (40, 60) and row.image(0).size == (60, 40)
    assert row.label(0)["bboxes"] == [pytest.approx(found.boxes[0].tolist(), abs=0.01)]


@pytest.mark.parametrize(
    "options", [{"version": "v3"}, {"on_error": "x"}, {"nms": 0.0}, {"nms": 2.0}, {"min_boxes": -1}, {"top": 0}]
)
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        label(write_json_lines(tmp_path), tmp_path / "out", **options)
