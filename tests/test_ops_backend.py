"""Which implementation runs: what is asked for, or the kernel exactly where a GPU and triton are."""

from unittest.mock import Mock, patch

import pytest
import torch

from minimaskrcnn.ops import backend
from minimaskrcnn.ops.backend import use_triton

CPU = torch.zeros(1)
# What `use_triton` reads of a tensor: a GPU is not at hand everywhere.
GPU = Mock(spec=torch.Tensor, is_cuda=True, device=torch.device("cuda"))


def installed(is_there):
    return patch.object(backend, "TRITON_IS_INSTALLED", is_there)


def interpreted(value):
    return patch.dict("os.environ", {"TRITON_INTERPRET": value})


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_the_kernel_on_a_gpu_where_triton_is_installed(there):
    with installed(there):
        assert use_triton("auto", GPU) is there
        assert use_triton("auto", CPU) is False


def test_auto_stays_with_torch_on_the_cpu_even_where_kernels_are_interpreted():
    with installed(True), interpreted("1"):
        assert use_triton("auto", CPU) is False


def test_torch_is_torch_everywhere():
    with installed(True), interpreted("1"):
        assert use_triton("torch", GPU) is use_triton("torch", CPU) is False


def test_triton_on_the_cpu_needs_the_interpreter():
    with installed(True):
        with interpreted("1"):
            assert use_triton("triton", CPU) is True
        with interpreted("0"):
            assert use_triton("triton", GPU) is True
            with pytest.raises(ValueError, match=r"on a cpu tensor.*TRITON_INTERPRET=1"):
                use_triton("triton", CPU)


def test_triton_where_it_is_not_installed_is_an_error_that_names_it():
    with installed(False), pytest.raises(ModuleNotFoundError, match="not installed") as error:
        use_triton("triton", GPU)
    assert error.value.name == "triton"


def test_the_kernels_have_no_float64():
    with installed(True), interpreted("1"):
        assert use_triton("auto", GPU, float64=True) is use_triton("torch", GPU, float64=True) is False
        with pytest.raises(TypeError, match="the kernels have no float64"):
            use_triton("triton", GPU, float64=True)


@pytest.mark.unhooked
def test_any_other_word_is_refused():
    for word in ("cuda", "", "Triton"):
        with pytest.raises(ValueError, match=f"backend '{word}': expected 'auto', 'torch' or 'triton'"):
            use_triton(word, CPU)


@pytest.mark.unhooked
def test_the_question_compiles_into_the_graph_without_a_break():
    def call(x):
        with_kernel = [use_triton(way, x) for way in ("auto", "torch", "triton")]
        return x + sum(with_kernel), with_kernel

    with installed(True), interpreted("1"):
        out, answers = torch.compile(call, fullgraph=True, backend="eager")(CPU)
    assert answers == [False, False, True] and out.item() == 1
