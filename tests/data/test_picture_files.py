"""Pictures that are not where a dataset says."""

from maskrcnn_benchmark.data.picture_files import describe_missing


def test_the_first_five_missing_pictures_are_named():
    missing = {index: f"{index}.png" for index in range(7)}
    assert describe_missing(missing, 9) == "7 of 9 pictures are missing: 0.png, 1.png, 2.png, 3.png, 4.png, ..."
