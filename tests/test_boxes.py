"""Deltas: numbers worked by hand, the inverse, what they do not depend on, and their derivatives."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.boxes import BOX_HEAD_WEIGHTS, MAX_LOG_SCALE, RPN_WEIGHTS, decode_deltas, encode_deltas

UNIT = (1.0, 1.0, 1.0, 1.0)
# Sides of 1 to 60 pixels: every ratio of two stays under 62.5.
sides = st.floats(1, 60)
places = st.floats(-500, 500)
weights = st.tuples(*[st.floats(0.5, 20)] * 4)


@st.composite
def boxes(draw) -> torch.Tensor:
    x, y, width, height = draw(places), draw(places), draw(sides), draw(sides)
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)


def test_encode_by_hand():
    # The reference is 20 wide, 40 high, centred on (20, 40); the box 10 and 50, centred on (19, 49).
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)
    box = torch.tensor([[14.0, 24.0, 24.0, 74.0]], dtype=torch.float64)
    unit = torch.tensor([[-1 / 20, 9 / 40, math.log(0.5), math.log(1.25)]], dtype=torch.float64)
    assert torch.allclose(encode_deltas(box, reference, UNIT), unit, rtol=0, atol=1e-15)
    weighted = unit * torch.tensor([10.0, 11.0, 5.0, 6.0])
    assert torch.allclose(encode_deltas(box, reference, (10.0, 11.0, 5.0, 6.0)), weighted, rtol=0, atol=1e-14)
    assert torch.allclose(decode_deltas(weighted, reference, (10.0, 11.0, 5.0, 6.0)), box, rtol=0, atol=1e-12)


def test_the_papers_weights():
    assert RPN_WEIGHTS == (1, 1, 1, 1) and BOX_HEAD_WEIGHTS == (10, 10, 5, 5)
    assert math.isclose(math.exp(MAX_LOG_SCALE), 62.5)


@given(boxes(), boxes(), weights)
def test_decoding_undoes_encoding(box, reference, weight):
    again = decode_deltas(encode_deltas(box, reference, weight), reference, weight)
    assert torch.allclose(again, box, rtol=0, atol=1e-9)


@given(boxes(), boxes())
def test_decoding_undoes_encoding_in_float32(box, reference):
    box, reference = box.float(), reference.float()
    again = decode_deltas(encode_deltas(box, reference, BOX_HEAD_WEIGHTS), reference, BOX_HEAD_WEIGHTS)
    # Coordinates up to 560 have an ulp of 6e-5, and a shift of 60 pixels adds its own.
    assert torch.allclose(again, box, rtol=0, atol=2e-3)


@given(boxes(), boxes(), st.floats(0.1, 10), places, places)
def test_scale_and_shift_of_the_picture_change_no_delta(box, reference, scale, x, y):
    shift = torch.tensor([x, y, x, y], dtype=torch.float64)
    moved = encode_deltas(box * scale + shift, reference * scale + shift, UNIT)
    assert torch.allclose(moved, encode_deltas(box, reference, UNIT), rtol=1e-9, atol=1e-9)


def test_growth_is_cut_at_62_5_times_and_shrinking_is_not():
    reference = torch.tensor([[0.0, 0.0, 2.0, 4.0]], dtype=torch.float64)
    for factor in (1.0, 5.0):
        deltas = torch.tensor([[0.0, 0.0, 1000.0, factor * math.log(62.4)]], dtype=torch.float64)
        x1, y1, x2, y2 = decode_deltas(deltas, reference, (1.0, 1.0, factor, factor))[0].tolist()
        assert math.isclose(x2 - x1, 125.0) and math.isclose(y2 - y1, 4 * 62.4)
        assert math.isclose((x1 + x2) / 2, 1.0) and math.isclose((y1 + y2) / 2, 2.0)
    shrunk = decode_deltas(torch.tensor([[0.0, 0.0, -10.0, 0.0]], dtype=torch.float64), reference, UNIT)[0]
    assert math.isclose(shrunk[2] - shrunk[0], 2 * math.exp(-10), rel_tol=1e-9)


def test_infinite_growth_stays_finite():
    deltas = torch.tensor([[0.0, 0.0, torch.inf, 3e38]])
    assert decode_deltas(deltas, torch.tensor([[0.0, 0.0, 10.0, 10.0]]), UNIT).isfinite().all()


def test_one_reference_takes_a_delta_for_every_class():
    references = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 9.0, 6.0]], dtype=torch.float64)
    deltas = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = decode_deltas(deltas, references[:, None], BOX_HEAD_WEIGHTS)
    for row in range(2):
        for label in range(3):
            alone = decode_deltas(deltas[row, label][None], references[row][None], BOX_HEAD_WEIGHTS)
            assert torch.equal(found[row, label], alone[0])


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5, 2, 2, generator=generator, dtype=torch.float64) * 50
    size = 1 + torch.rand(5, 2, 2, generator=generator, dtype=torch.float64) * 9
    pair = torch.cat([corner, corner + size], dim=-1)
    box, reference = pair[:, 0].clone().requires_grad_(), pair[:, 1].clone().requires_grad_()
    deltas = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, r: encode_deltas(b, r, BOX_HEAD_WEIGHTS), (box, reference))
    assert torch.autograd.gradcheck(lambda d, r: decode_deltas(d, r, BOX_HEAD_WEIGHTS), (deltas, reference))


def test_cut_growth_has_no_gradient():
    deltas = torch.tensor([[0.0, 0.0, 9.0, 1.0]], requires_grad=True)
    decode_deltas(deltas, torch.tensor([[0.0, 0.0, 10.0, 10.0]]), UNIT).square().sum().backward()
    assert deltas.grad[0, 2] == 0 and deltas.grad[0, 3] > 0


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single(count):
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])[:count]
    assert encode_deltas(boxes, boxes, UNIT).tolist() == [[0.0] * 4] * count
    assert decode_deltas(torch.zeros(count, 4), boxes, UNIT).tolist() == boxes.tolist()
