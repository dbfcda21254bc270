"""Captured draws by their uncaptured twin, which runs on a CPU what a graph replays; with a GPU, graphs themselves."""

import threading

import pytest
import torch

from tests.helpers.generators import CLASSES, HOW, POSITIONS, generator
from tokenbridge.config import HEAD_KINDS, Sample, UserError
from tokenbridge.model.heads.captured import CapturedDraws, StaticDraw, capture

WAYS = [(kind, on) for kind, declared in HEAD_KINDS.items() for on in declared.guided]


def twins():
    """What stands for `capture` where there is no GPU: the draw runs once, as it is captured, and is kept."""
    made = []

    def make(static):
        static.run()
        made.append(static)
        return static

    return made, make


@pytest.mark.parametrize(("kind", "on"), WAYS)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_whole_images_by_static_draws_are_those_of_the_head(kind, on, guidance):
    """The same places in memory serve all iterations, whose weights of guidance differ."""
    model, labels = generator(kind), torch.arange(4) % CLASSES
    how = Sample(iterations=POSITIONS - 2, guidance=guidance, guidance_on=on, head_steps=3, temperature=0.9)
    order, noise = model.draws(how, range(4))
    made, make = twins()
    draw = CapturedDraws(model.head, how, make)
    expected = model.sample(labels, order, noise, how)
    for _ in range(2):
        torch.testing.assert_close(model.sample(labels, order, noise, how, draw), expected, rtol=1e-3, atol=1e-3)
    assert len(made) == len(draw.graphs)
    assert {positions for positions, _ in draw.graphs} == {4, 8}  # one position an iteration, and two
    assert not draw.refused


def test_positions_by_confidence_have_a_graph_for_each_count():
    model, labels = generator(), torch.arange(4) % CLASSES
    how = Sample(iterations=3, confidence=2.0, guidance=2.0)
    order, noise = model.draws(how, range(4))
    draw = CapturedDraws(model.head, how, twins()[1])
    assert torch.equal(model.sample(labels, order, noise, how, draw), model.sample(labels, order, noise, how))
    assert len(draw.graphs) == 3


def test_what_cannot_be_captured_is_said_once_and_drawn_all_the_same(capsys):
    model, labels = generator(), torch.arange(4) % CLASSES
    how = Sample(iterations=4, guidance=2.0)
    order, noise = model.draws(how, range(4))

    def refuse(static):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    draw = CapturedDraws(model.head, how, refuse)
    assert torch.equal(model.sample(labels, order, noise, how, draw), model.sample(labels, order, noise, how))
    (line,) = capsys.readouterr().err.splitlines()
    assert "(operation not permitted when stream is capturing); it takes longer" in line


def test_a_graph_needs_a_gpu():
    model = generator()
    with pytest.raises(UserError, match="must be a CUDA device"):
        capture(StaticDraw(model.head, HOW, torch.zeros(3, 14), torch.zeros(3, 5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "on"), WAYS)
def test_graphs_draw_what_the_head_draws(kind, on):
    model = generator(kind).cuda()
    model.tokenizer.cuda()
    labels, how = (
        torch.arange(4, device="cuda") % CLASSES,
        Sample(iterations=7, guidance=2.5, guidance_on=on, head_steps=3),
    )
    order, noise = (x.cuda() for x in model.draws(how, range(4)))
    draw = CapturedDraws(model.head, how)
    expected = model.sample(labels, order, noise, how)
    for _ in range(2):
        torch.testing.assert_close(model.sample(labels, order, noise, how, draw), expected, rtol=0, atol=1e-4)
    assert not draw.refused


@pytest.mark.slow
def test_a_compiled_static_draw_draws_the_same():
    model, how = generator(), Sample()
    z, noise = torch.randn(3, 14), torch.rand(3, 5)
    static = StaticDraw(model.head, how, z, noise)
    expected = static(z, noise)
    static.again = torch.compile(static.run)
    assert torch.equal(static(z, noise), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_graph_is_of_the_gpu_that_its_head_is_on():
    """Also where another is the current one."""
    other, model = torch.device("cuda:1"), generator()
    assert torch.cuda.current_device() == 0
    head = model.head.to(other)
    z, noise = torch.randn(2, 3, 14, device=other), torch.rand(2, 3, 5, device=other)
    drawn = capture(StaticDraw(head, HOW, z[0], noise[0]))
    assert torch.equal(drawn(z[1], noise[1]), head.sample(z[1], noise[1], HOW))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_pinned_by_another_thread_ends_no_capture():
    model, ended = generator(), threading.Event()
    head, static = model.head.cuda(), []

    def pin():
        sizes = iter(range(1, 2**26, 2**20))  # that no cache has
        while not ended.is_set() and (size := next(sizes, 0)):
            torch.empty(size).pin_memory()

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(5):
            static.append(capture(StaticDraw(head, HOW, torch.zeros(3, 14).cuda(), torch.zeros(3, 5).cuda())))
    finally:
        ended.set()
        thread.join()
    assert len(static) == 5
