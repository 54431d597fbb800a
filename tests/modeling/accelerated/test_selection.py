"""Selection for the whole batch against the plain post-processor, which works level by level."""

import pytest
import torch
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.modeling.accelerated.inference import token_matrices
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.modeling.accelerated.selection import (
    SelectionSettings,
    best_locations,
    can_be_recorded,
    select_detections,
    to_box_lists,
)
from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.rpn.inference import ATSSPostProcessor
from maskrcnn_benchmark.ops import library
from maskrcnn_benchmark.structures.image_list import ImageList

SIZES = ((12, 17), (6, 9), (3, 5), (2, 3), (1, 2))
STRIDES = (8, 16, 32, 64, 128)
SHAPE = PyramidShape.of(SIZES)


class Case:
    """Random predictions of a small pyramid; `bias` moves all word logits."""

    def __init__(self, batch=2, tokens=12, classes=5, bias=0.0, maps=1, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(batch, SHAPE.total, tokens, generator=generator) * 2 + bias
        self.codes = torch.randn(batch, SHAPE.total, 4, generator=generator)
        self.centerness = torch.randn(batch, SHAPE.total, generator=generator) * 2
        self.image_sizes = [(90 - 10 * i, 130 - 7 * i) for i in range(batch)]
        self.maps = [  # no two classes have the same tokens
            {
                3 * label + 1: [(label + i * i + s) % tokens for i in range(1 + (label + s) % 3)]
                for label in range(classes)
            }
            for s in range(maps)
        ]

    def plain(self, processor):
        images = ImageList(torch.zeros(len(self.logits), 3, 96, 136), self.image_sizes)
        generator = AnchorGenerator([(8 * s,) for s in STRIDES], (1.0,), STRIDES)
        codes, centerness = (
            [level.permute(0, 3, 1, 2) for level in SHAPE.levels(x.expand(len(self.logits), -1, -1))]
            for x in (self.codes, self.centerness[..., None])
        )
        dots = [level.flatten(1, 2) for level in SHAPE.levels(self.logits)]
        maps = self.maps[0] if len(self.maps) == 1 else self.maps
        return processor(codes, centerness, generator(images, codes), dot_product_logits=dots, positive_map=maps)

    def arguments(self, device="cpu", columns=8):
        """Arguments of `select_detections` but the settings, with columns of padding."""
        matrix = torch.zeros(len(self.maps), self.logits.shape[2], columns)
        labels = torch.zeros(len(self.maps), columns, dtype=torch.int64)
        for s, positive_map in enumerate(self.maps):
            for column, (label, tokens) in enumerate(sorted(positive_map.items())):
                matrix[s, tokens, column], labels[s, column] = 1.0, label
        generator = AnchorGenerator([(8 * s,) for s in STRIDES], (1.0,), STRIDES)
        anchors = torch.cat(generator.grid_anchors(SIZES))
        limits = torch.tensor([[width - 1.0, height - 1.0] for height, width in self.image_sizes])
        tensors = (self.logits, self.codes, self.centerness, anchors, matrix, labels, limits)
        logits, codes, centerness, anchors, matrix, labels, limits = (x.to(device) for x in tensors)
        return logits, codes, centerness, anchors, SHAPE, matrix, labels, limits

    def fast(self, processor, device="cpu"):
        return to_box_lists(
            select_detections(*self.arguments(device), SelectionSettings.of(processor)), self.image_sizes, "cpu"
        )


def processor(**settings) -> ATSSPostProcessor:
    return ATSSPostProcessor(CenterBoxCoder(), **settings)


def check(case, device="cpu", **settings):
    """Equal detections, in the same order; returns how many there are in each image."""
    expected, found = case.plain(processor(**settings)), case.fast(processor(**settings), device)
    for a, b in zip(found, expected, strict=True):
        assert a.size == b.size and a.mode == b.mode and len(a) == len(b)
        assert a.get_field("labels").tolist() == b.get_field("labels").tolist()
        torch.testing.assert_close(a.get_field("scores"), b.get_field("scores"), rtol=2e-6, atol=0)
        torch.testing.assert_close(a.bbox, b.bbox, rtol=1e-6, atol=1e-4)
    return [len(boxes) for boxes in expected]


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"pre_nms_top_n": 40}, {"pre_nms_top_n": 3, "max_detections": 4}, {"nms_threshold": 0}, {"is_raw": True}],
)
def test_equals_the_plain_selection(settings, maps, device):
    for seed in range(3):
        assert min(check(Case(maps=maps, seed=seed), device, **settings)) > 0


@pytest.mark.parametrize("settings", [{"pre_nms_top_n": 40}, {}])
def test_equals_the_plain_selection_with_kernels(settings):
    case = Case()
    expected = case.fast(processor(**settings))
    with interpreted_kernels():
        found = case.fast(processor(**settings))
    for a, b in zip(found, expected, strict=True):
        assert a.get_field("labels").tolist() == b.get_field("labels").tolist()
        torch.testing.assert_close(a.bbox, b.bbox)


def test_more_candidates_than_a_level_may_have_and_hardly_any(device):
    many = check(Case(classes=8, bias=5.0), device, pre_nms_top_n=100, max_detections=0, nms_threshold=0)
    assert many == [100 + 100 + 100 + 6 * 8 + 2 * 8] * 2
    assert max(check(Case(bias=-7.0), device)) < 30
    assert check(Case(bias=-30.0), device) == [0, 0]


def test_locations_are_chosen_in_their_own_levels_even_where_nothing_is_found(device):
    logits, _, centerness, _, shape, matrix, *_ = Case(bias=-30.0).arguments(device)
    chosen = best_locations(logits, centerness, matrix, shape, 0.05, 20).cpu()
    for level, (start, length) in enumerate(zip(shape.starts, shape.lengths, strict=True)):
        for locations in chosen[:, level].tolist():
            used = locations[: min(20, length)]
            assert used == sorted(set(used)) and start <= used[0] and used[-1] < start + length
            assert set(locations[length:]) <= {-1}


def test_equal_scores_go_by_location_and_column(device):
    case = Case(bias=3.0)
    case.logits, case.centerness = case.logits.round(), case.centerness.round()
    assert min(check(case, device)) >= 100
    case.logits[:], case.centerness[:] = 1.0, 0.5  # all pairs are equal: the cut takes none away
    assert min(check(case, device, nms_threshold=0.9, pre_nms_top_n=2000)) > 100


def test_the_cut_keeps_equals_of_the_last(device):
    case = Case(batch=1)
    case.logits[:], case.centerness[:] = -20.0, 0.0
    case.logits[:, :40], case.logits[:, 40:90] = 3.0, 1.0
    assert check(case, device, max_detections=100, nms_threshold=0) == [40 * 5]
    assert check(case, device, max_detections=201, nms_threshold=0) == [90 * 5]


def test_boxes_that_are_too_small_go(device):
    case = Case()
    assert sum(check(case, device, min_size=20.0, max_detections=0)) < sum(check(case, device, max_detections=0))


def test_several_texts_share_the_boxes_of_one_image(device):
    case = Case(batch=3, maps=3)
    case.codes, case.centerness, case.image_sizes = case.codes[:1], case.centerness[:1], case.image_sizes[:1] * 3
    assert min(check(case, device)) > 0


def test_no_classes_at_all(device):
    case = Case()
    case.maps = [{}]
    assert check(case, device) == [0, 0]


def test_positive_maps_become_matrices_with_padding():
    matrix, labels = token_matrices([{5: [1, 2], 2: [0]}, {7: [3]}], 4, aggregation="MEAN", device=torch.device("cpu"))
    assert matrix.shape == (2, 4, 16) and matrix.sum() == 4
    assert matrix[0, :, :2].T.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]] and matrix[1, :, 0].tolist() == [0, 0, 0, 1]
    assert labels[:, :3].tolist() == [[2, 5, 0], [7, 0, 0]] and not labels[:, 3:].any()


def test_only_a_compiled_suppression_can_be_recorded(monkeypatch):
    for server in (library.COMPILED, library.PLAIN):
        rows = [library.Backend("nms_keep_mask", "cuda", server, ""), library.Backend("nms_keep_mask", "cpu", "", "")]
        monkeypatch.setattr(library, "backends", lambda rows=rows: rows)
        assert can_be_recorded() == (server == library.COMPILED)


@pytest.mark.gpu
def test_a_recorded_graph_reads_fresh_input():
    settings = SelectionSettings.of(processor(pre_nms_top_n=40))
    static = Case(maps=2).arguments("cuda")
    for _ in range(2):
        select_detections(*static, settings)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = select_detections(*static, settings)
    for seed in (1, 2):
        fresh = Case(maps=2, seed=seed).arguments("cuda")
        for old, new in zip(static, fresh, strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)
        graph.replay()
        expected = select_detections(*fresh, settings)
        assert torch.equal(found.counts, expected.counts)
        for i, number in enumerate(expected.counts.tolist()):
            for a, b in zip(found[:3], expected[:3], strict=True):
                assert torch.equal(a[i, :number], b[i, :number])
