"""The rows that ask for a document: their section of README says what the notes say."""

import re

import pytest
from tiny_detector import REPOSITORY

TEXT = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
SAID = {
    1: ("Install", ("include headers (THC) that PyTorch has removed", "CUDA 10 or 11 and PyTorch 1.9 or older")),
    30: ("Real weights", ("GoldG is 0.8 million sentences", "Flickr30k", "Visual Genome captions", "GQA")),
    37: ("Several GPUs", ("`--nnodes`", "`--node_rank`", "`--nproc_per_node`", "`--master_addr`", "`--master_port`")),
    46: ("The original", ("a5f302bfd4c5c67010e29f779e3b0bde94e89985", "9dda955", "PyTorch 1.11", "mmcv-full 1.7.1")),
    55: ("The original", ("2023-09-08", "public_data.py")),
    56: ("Evaluation", ("27 million", "3 million", "24 million", "49.8", "26.9", "60.8", "61.5", "13 ODinW tasks")),
    57: ("How it works", ('joined by ". "', "agrees with every token", "attention between locations and words in both",
                          "transformer layer on the text", "every sub-word", "last token")),
    59: ("Evaluation", ("43.6", "49.7", "42.9", "44.9", "46.7", "55.2", "51.4")),
    60: ("Real weights", ("0.66 million pictures with 365 classes", "FourODs is", "2.66 million", "CC3M, CC12M, SBU")),
    61: ("Real weights", ("44,518", "110,689", "78.1 million", "above 0.5")),
    62: ("Evaluation", ('"flat and round"', "from 4.6 to 9.7", "odinw_13")),
}  # fmt: skip


@pytest.mark.parametrize("row", SAID)
def test_what_the_section_says(row):
    heading, texts = SAID[row]
    level, section = re.search(rf"(##+) {heading} (.*?)(?= ##+ [A-Z]|$)", TEXT).groups()
    assert level in ("##", "###") and [text for text in texts if text not in section] == []
