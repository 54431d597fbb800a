"""Pairs of pictures and captions from each kind of file."""

import json

import pytest
from pair_files import CAPTIONS, write_caption_tsv, write_json_lines, write_tar, write_webdataset
from tsv_files import png

from maskrcnn_benchmark.data.image_text_pairs import find_shards


def pairs_of(shards) -> list:
    return [pair for shard in shards for pair in shard]


@pytest.mark.parametrize("kind", ["json lines", "tar", "tsv"])
@pytest.mark.parametrize("pairs_per_shard", [1, 2, 5, 100])
def test_all_pairs_come_once_and_in_order(tmp_path, kind, pairs_per_shard):
    if kind == "tar":
        path = write_webdataset(tmp_path / "00000.tar")
    else:
        path = (write_json_lines if kind == "json lines" else write_caption_tsv)(tmp_path)
    shards = find_shards([str(path)], None, pairs_per_shard)
    assert len(shards) == (1 if kind == "tar" else -(-5 // pairs_per_shard))
    assert len({shard.name for shard in shards}) == len(shards) == len({json.dumps(shard.source) for shard in shards})
    for _ in range(2):
        pairs = pairs_of(shards)
        assert [pair.caption for pair in pairs] == list(CAPTIONS) and not any(pair.problem for pair in pairs)
        assert [pair.read() for pair in pairs] == [png(10 * number) for number in range(5)]
        assert len({pair.key for pair in pairs}) == 5
    for shard in shards:
        positions = [pair.position for pair in shard]
        assert positions == sorted(positions) and 0 < positions[-1] <= shard.size


def test_forms_of_json_lines(tmp_path):
    lines = [
        '{"image": "0.png", "text": " a dog "}',
        "",
        '{"file_name": "none.png", "caption": "a"}',
        '{"file_name": "0.png"}',
        '{"file_name": "0.png", "captions": ["a", "b"]}',
        "[1]",
        "{",
        '{"caption": "a"}',
    ]
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(png(0))
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(lines))
    pairs = pairs_of(find_shards([str(path)], tmp_path / "pictures"))
    assert [pair.caption for pair in pairs] == ["a dog", "a", "", "a b", "", "", ""]
    assert [pair.key for pair in pairs] == [f"p:{number}" for number in (1, 3, 4, 5, 6, 7, 8)]
    assert [bool(pair.problem) for pair in pairs] == [False] * 4 + [True] * 3
    assert "no picture under file_name or image: b'[1]'" in pairs[4].problem
    assert pairs[0].read() == png(0)
    with pytest.raises(FileNotFoundError):
        pairs[1].read()


def test_forms_of_tar_members(tmp_path):
    members = {
        "a/1.JPG": b"one", "a/1.json": b'{"caption": "a dog", "url": "x"}', "b/1.jpg": b"two", "b/1.txt": b" a cat\n",
        "b/1.json": b'{"caption": "another"}', "2.txt": b"no picture", "3.png": b"three", "4.png": b"",
        "4.txt": b"\xff", "5 x.seg.png": b"", "5 x.webp": b"five", "5 x.caption": b"a bird",
    }  # fmt: skip
    pairs = pairs_of(find_shards([str(write_tar(tmp_path / "w.tar", members))]))
    assert [pair.key for pair in pairs] == ["w:a/1", "w:b/1", "w:2", "w:3", "w:4", "w:5_x"]
    assert [pair.caption for pair in pairs] == ["a dog", "a cat", "no picture", "", "", "a bird"]
    assert [pair.problem[:18] for pair in pairs] == ["", "", "no picture among t", "", "unreadable caption", ""]
    assert [pairs[number].read() for number in (0, 1, 3, 5)] == [b"one", b"two", b"three", b"five"]


def test_damaged_tar_files_are_named(tmp_path):
    path = write_webdataset(tmp_path / "00000.tar")
    path.write_bytes(path.read_bytes()[:2900])
    with pytest.raises(ValueError, match=r"00000.tar cannot be read: unexpected end of data"):
        pairs_of(find_shards([str(path)]))
    path.write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match=r"00000.tar cannot be read"):
        pairs_of(find_shards([str(path)]))
    write_tar(path, {"1.txt": b"a", "2.txt": b"b", "1.jpg": b"c"})
    with pytest.raises(ValueError, match=r"members of '1' do not stand together"):
        pairs_of(find_shards([str(path)]))
    write_tar(path, {"1.jpg": b"a", "1.txt": b"b", "1.JPG": b"c"})
    with pytest.raises(ValueError, match=r"00000.tar: the member '1.JPG' comes twice"):
        pairs_of(find_shards([str(path)]))


def test_names_folders_and_patterns(tmp_path):
    for number in (8, 9, 10):
        write_webdataset(tmp_path / f"{number:03d}.tar", CAPTIONS[:1])
    for text in ("", "/*.tar", "/{008..010}.tar", "/0[01]*.tar"):
        assert [shard.name for shard in find_shards([f"{tmp_path}{text}"])] == ["008", "009", "010"]
    assert len(find_shards([f"{tmp_path}/008.tar", f"{tmp_path}/*.tar"])) == 3


def test_mistakes_are_named(tmp_path):
    path = write_webdataset(tmp_path / "0.tar", CAPTIONS[:1])
    (tmp_path / "other").mkdir()
    other = write_webdataset(tmp_path / "other" / "0.tar", CAPTIONS[:1])
    with pytest.raises(ValueError, match="two inputs would both become the shard '0'"):
        find_shards([str(path), str(other)])
    for name in ("none.jsonl", "*.jsonl", "{0..1}.tar"):
        with pytest.raises(FileNotFoundError, match="no file"):
            find_shards([str(tmp_path / name)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no tar file in the folder"):
        find_shards([str(tmp_path / "empty")])
    (tmp_path / "p.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"p.csv' is none of .jsonl"):
        find_shards([str(tmp_path / "p.csv")])
    (tmp_path / "p.jsonl").write_text("")
    with pytest.raises(ValueError, match="no pair of a picture and a caption in"):
        find_shards([str(tmp_path / "p.jsonl")])
    with pytest.raises(FileNotFoundError, match="folder of pictures .* does not exist"):
        find_shards([str(tmp_path / "p.jsonl")], tmp_path / "pictures")
    with pytest.raises(ValueError, match="0 pairs per shard"):
        find_shards([str(path)], None, 0)
