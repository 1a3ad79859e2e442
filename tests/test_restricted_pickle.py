"""The restricted pickle reader: what numpy writes is read bit for bit, and nothing that acts is."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.restricted_pickle import read_restricted_pickle

CONTENT = {
    "model": OrderedDict(
        weight=np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        big_endian=np.arange(-2, 3).astype(">i2"),
        half=np.array([1.5, -2.0], dtype=np.float16),
        boolean=np.array([True, False]),
        point=np.array(7, dtype=np.uint8),
        nan=np.array([np.nan, np.inf]),
    ),
    "__author__": "Zoo of Bären",
    "matching_heuristics": True,
    "plain": [None, False, -1, 300, 2**70, 2.5, ("a", (1,), ()), b"\x00\xff", {3: "three"}],
    "scalars": (np.float32(2.5), np.int64(-9)),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.pkl"


def read(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return read_restricted_pickle(path)


def refusal(path: Path, content: bytes) -> str:
    """The sentence with which `content` is refused."""
    with pytest.raises(ValueError) as error:
        read(path, content)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and len(text) < len(str(path)) + 300
    return text


def same(found: object, expected: object) -> bool:
    if isinstance(expected, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and found.dtype == expected.dtype.newbyteorder("=")
            and np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(expected)
            and all(same(found[k], expected[k]) for k in found)
        )
    if isinstance(expected, list | tuple):
        return (
            type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
        )
    return type(found) in (type(expected), int, float) and found == expected


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_what_python_3_writes_is_read(path, protocol):
    assert same(read(path, pickle.dumps(CONTENT, protocol)), CONTENT)


def test_arrays_that_are_there_twice_are_one(path):
    array = np.zeros(3)
    first, second, inner = read(path, pickle.dumps([array, array, (array,)], 4))
    assert first is second is inner[0]


def test_empty_arrays(path):
    assert read(path, pickle.dumps(np.zeros((0, 3), np.float32), 4)).shape == (0, 3)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(min_size=1)
        | st.lists(st.integers(-(2**31), 2**31 - 1)).map(lambda x: np.array(x, dtype=np.int32)),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text() | st.integers(), inner)
            | st.tuples(inner, inner)
            | st.tuples(inner, inner, inner, inner)
        ),
        max_leaves=12,
    ),
    st.sampled_from([3, 4]),
)
def test_any_plain_content_comes_back(tmp_path_factory, content, protocol):
    path = tmp_path_factory.mktemp("pickles") / "any.pkl"
    assert same(read(path, pickle.dumps(content, protocol)), content)


# What Python 2 writes for {"w": numpy.array([1.5, -2], "f4")} in protocol 2: byte strings (SHORT_BINSTRING).
ARRAY_2 = struct.pack("<2f", 1.5, -2)
PYTHON_2 = (
    b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
    b"(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    b"tb\x89U\x08" + ARRAY_2 + b"tbs."
)


def test_what_python_2_writes_is_read(path):
    # -2 is 0xc0000000 in the file: not ASCII, and latin1 gives the bytes back.
    assert b"\xc0" in ARRAY_2
    assert same(pickle.loads(PYTHON_2, encoding="latin1"), {"w": np.array([1.5, -2], dtype=np.float32)})
    assert same(read(path, PYTHON_2), {"w": np.array([1.5, -2], dtype=np.float32)})


def test_strings_of_python_2s_text_protocol(path):
    assert read(path, b"(lp0\nS'a\\x00\\xc0\\n\\r\\t\\\\\\'\"'\np1\naS\"it's \\xff\"\naS''\na.") == [
        "a\x00\xc0\n\r\t\\'\"",
        "it's ÿ",
        "",
    ]
    assert read(path, b"(I01\nI00\nI-7\nL99L\nF1.5\nV\\u00e9\nt.") == (True, False, -7, 99, 1.5, "é")
    for broken in (b"S'a\n.", b"Sa\n.", b"S'\n.", b"S'a"):
        refusal(path, broken)


def test_ordered_dicts_of_python_2(path):
    # Python 2 gives their items as the argument: a list of lists.
    content = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R."
    assert pickle.loads(content) == read(path, content) == {"a": 1, "b": 2}


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_called(path, tmp_path, protocol):
    target = tmp_path / "written"
    attacks = [
        (Calls(os.system, f"touch {target}"), "posix.system"),
        (Calls(eval, f"open({str(target)!r}, 'w')"), "eval"),
        (Calls(exec, f"open({str(target)!r}, 'w')"), "exec"),
        (Calls(os.mkdir, str(target)), "mkdir"),
        (Calls(getattr, 1, "real"), "getattr"),
        (Calls(np.load, str(target)), "load"),
        (Calls(np.memmap, str(target), np.uint8, "w+", 0, 4), "memmap"),
        (Calls(pickle.loads, b"."), "loads"),
        (Calls(bytearray, 2**40), "bytearray"),
        (Calls(range, 3), "range"),
    ]
    for attack, name in attacks:
        text = refusal(path, pickle.dumps({"model": [attack]}, protocol))
        assert name in text and "it asks for" in text
        assert not target.exists()
    # The first of them does act where pickle is trusted: a fair trial.
    pickle.loads(pickle.dumps(attacks[0][0], protocol))
    assert target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy", "dtype.__class__"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "sys.modules"),
        ("numpy core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("builtins", "getattr"),
        ("_codecs", "decode"),
        ("numpy", "f2py"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.numeric", "_frombuffer"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "__newobj__"),
        ("numpy", "matrix"),
        ("torch._utils", "_rebuild_tensor_v2"),
    ],
)
def test_other_names_are_refused(path, module, name):
    shown = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    assert shown in refusal(path, f"c{module}\n{name}\n)R.".encode())
    strings = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    assert shown in refusal(path, b"\x80\x04" + strings + b"\x93)R.")


def array_program(
    *,
    subtype=b"cnumpy\nndarray\n",
    code=b"U\x02f4",
    state=None,
    shape=b"K\x02\x85",
    data=b"U\x08" + ARRAY_2,
    rest=b"",
) -> bytes:
    """A pickle of an array, part by part."""
    state = state or b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    dtype = b"cnumpy\ndtype\n" + code + b"K\x00K\x01\x87R" + state + b"b"
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n" + subtype + b"K\x00\x85U\x01b\x87R"
    return b"\x80\x02" + reconstruct + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb" + rest + b"."


def test_the_parts_make_an_array(path):
    assert read(path, array_program()).tolist() == [1.5, -2]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.array([None, {"a": 1}], dtype=object),
        np.array([(1, None)], dtype=[("a", "i4"), ("b", object)]),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "f4")]),
        np.zeros(2, dtype=[("a", [("b", object)])]),
        np.array(["text"]),
        np.array([b"text"]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([1j]),
        np.zeros(2, dtype="V4"),
    ],
)
def test_arrays_of_something_other_than_numbers(path, array, protocol):
    assert "an array of something other than numbers" in refusal(path, pickle.dumps({"model": array}, protocol))


DASHES = b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "state",
    [
        b"(K\x03U\x01|NNN" + DASHES + b"K?t",  # flags of an object array
        b"(K\x03U\x01<N(U\x01at}U\x01a(cnumpy\ndtype\nU\x02O8K\x00K\x01\x87RK\x00ts"
        + DASHES
        + b"K\x00t",  # fields
        b"(K\x03U\x01<K\x01K\x02\x86NN" + DASHES + b"K\x00t",  # a sub-array
        b"(K\x03U\x01<NNNJ\x00\x00\x00\x40J\xff\xff\xff\xffK\x00t",  # 2**30 bytes an element
        b"(K\x03U\x01<K\x05NN" + DASHES + b"K\x00t",
        b"(K\x03U\x01sNNN" + DASHES + b"K\x00t",  # no byte order
        b"(K\x04U\x01<NNN" + DASHES + b"K\x00}t",  # metadata
        b"}",
        b"(t",
        b"N",
    ],
)
def test_a_dtypes_state_sets_the_byte_order_only(path, state):
    text = refusal(path, array_program(state=state))
    assert "a dtype with" in text or b"O8" in state or len(state) < 4


@pytest.mark.parametrize(
    "code", [b"U\x02O8", b"U\x02M8", b"U\x03c16", b"U\x02f3", b"U\x02V4", b"U\x0bf4,(9999)i1", b"K\x04"]
)
def test_a_dtypes_code_is_that_of_a_number(path, code):
    text = refusal(path, array_program(code=code))
    assert "something other than" in text or code == b"K\x04"


@pytest.mark.parametrize(
    "shape",
    [
        b"(J\x00\x00\x10\x00J\x00\x00\x10\x00t",  # 2**40 elements
        b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85",  # 2**40 on one axis
        b"(J\xff\xff\xff\xffJ\xfe\xff\xff\xfft",  # -1 × -2 elements, which are 8 bytes
        b"K\x03\x85",
        b"K\x01\x85",
        b"G\x40\x00\x00\x00\x00\x00\x00\x00\x85",  # 2.0
        b"\x88\x85",
        b"U\x012\x85",
        b"K\x02",
        b")",
    ],
)
def test_shapes_that_the_bytes_do_not_have(path, shape):
    text = refusal(path, array_program(shape=shape))
    if shape in (b"K\x03\x85", b"K\x01\x85", b")"):
        assert "buffer size does not match" in text


def test_numpys_own_functions_make_arrays_only(path):
    # The first has a shape that numpy's function would allocate: it stays the empty array it is without a state.
    huge = b"cnumpy\nndarray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85U\x02f8\x87R."
    assert read(path, b"cnumpy.core.multiarray\n_reconstruct\n" + huge).shape == (0,)
    for content in (
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"cnumpy\nndarray\nK\x02\x85R.",
        b"cnumpy\ndtype\nN\x85R.",
        b"cnumpy\ndtype\n](U\x01aU\x02O8\x86e\x85R.",
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8K\x00K\x01\x87R" + b"U\x00\x86R.",
        b"cnumpy.core.multiarray\nscalar\nU\x02f8U\x08" + bytes(8) + b"\x86R.",
        b"c_codecs\nencode\nU\x01aU\x05rot13\x86R.",
        b"c_codecs\nencode\nU\x01a\x85R.",
        b"ccollections\nOrderedDict\nK\x05\x85R.",
        b"ccollections\nOrderedDict\n](K\x05e\x85R.",
        b"U\x01aK\x01\x85R.",
        b"}K\x01\x85R.",
    ):
        refusal(path, content)


def test_no_file_changes_what_the_next_one_calls(path):
    """BUILD with a tuple sets attributes of whatever is on the stack, be it a class of the reader."""
    for name in (
        b"numpy.core.multiarray\n_reconstruct",
        b"numpy.core.multiarray\nscalar",
        b"numpy\ndtype",
        b"numpy\nndarray",
        b"_codecs\nencode",
        b"collections\nOrderedDict",
    ):
        for attribute in (b"__new__", b"__init__", b"__setstate__", b"__call__", b"anything"):
            setting = b"N}U" + bytes([len(attribute)]) + attribute + b"ccollections\nOrderedDict\ns\x86b."
            refusal(path, b"c" + name + b"\n" + setting)
            refusal(path, b"c" + name + b"\n" + setting[1:].replace(b"\x86b", b"b"))
    assert same(read(path, pickle.dumps(CONTENT, 2)), CONTENT)


def test_scalars_have_the_bytes_of_their_dtype(path):
    for size, fits in ((8, True), (7, False), (16, False)):
        state = b"(K\x03U\x01<NNN" + DASHES + b"K\x00tb"
        dtype = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R" + state
        content = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"C" + bytes([size]) + bytes(size) + b"\x86R."
        if fits:
            assert read(path, content) == 0.0
        else:
            refusal(path, content)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_attributes_of_an_ordered_dict_are_dropped(path, protocol):
    """torch's state dicts are ordered dicts with `_metadata`; pickled as arrays they keep it."""
    weights = OrderedDict(a=np.arange(3.0))
    weights._metadata = OrderedDict({"": {"version": 1}})
    path.write_bytes(pickle.dumps({"model": weights}, protocol))
    found = read_restricted_pickle(path)
    assert list(found) == ["model"] and list(found["model"]) == ["a"] and not vars(found["model"])
    np.testing.assert_array_equal(found["model"]["a"], weights["a"])


@pytest.mark.parametrize(
    "content",
    [
        b"}K\x01b.",  # the state of a dict
        b"](K\x01eK\x01b.",
        b"cnumpy\nndarray\n}U\x0c__setstate__K\x01sb.",
        array_program(rest=b"}b"),
    ],
)
def test_only_arrays_have_a_state_that_is_read(path, content):
    refusal(path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Pid\n.", "persistent"),
        (b"U\x02idQ.", "persistent"),
        (b"(ios\nsystem\n.", "it asks for 'os.system'"),
        (b"(cnumpy\nndarray\no.", "not callable"),
        (b"cnumpy\nndarray\n)\x81.", "must be a type"),
        (b"\x80\x04cnumpy\nndarray\n)}\x92.", "must be a type"),
        (b"\x82\x01.", "extension code"),
        (b"\x83\x01\x00.", "extension code"),
        (b"\x84\x01\x00\x00\x00.", "extension code"),
        (b"\x80\x05\x97.", "out-of-band"),
    ],
)
def test_persistent_ids_extensions_and_buffers_are_refused(path, content, message):
    assert message in refusal(path, content)


def test_cycles_are_read(path):
    cycle = read(path, b"]q\x01h\x01a.")
    assert cycle[0] is cycle


def test_files_that_are_something_else(path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"K\x01.")
    assert "a zip archive, as torch.save writes" in refusal(path, archive.getvalue())
    assert "Ran out of input" in refusal(path, b"")
    assert "invalid load key" in refusal(path, b"N\xff")
    refusal(path, b"\x89PNG\r\n\x1a\n" + bytes(60))
    for content in (
        b"hello world",
        b"\xff",
        b".",
        b"a.",
        b"s.",
        b"t.",
        b"e.",
        b"R.",
        b"b.",
        b"h\x05.",
        b"q\x05.",
        b"\x8e" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x93.",
    ):
        refusal(path, content)
    with pytest.raises(FileNotFoundError):
        read_restricted_pickle(path.with_name("absent.pkl"))


def test_every_cut_is_noticed(path):
    whole = pickle.dumps(CONTENT, 4)
    for length in range(0, len(whole), 7):
        refusal(path, whole[:length])


# Without p and r, the instructions that make a memo of a number of entries that the file says.
BYTES = st.sampled_from(sorted(set(range(256)) - set(b"pr")))


@given(
    st.sampled_from([0, 2, 4]), st.lists(st.tuples(st.integers(0, 10**4), BYTES), min_size=1, max_size=4)
)
def test_damage_ends_in_a_value_error_or_is_not_noticed(tmp_path_factory, protocol, damage):
    content = bytearray(pickle.dumps(CONTENT, protocol))
    for place, byte in damage:
        content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("pickles") / "damaged.pkl"
    path.write_bytes(bytes(content))
    try:
        read_restricted_pickle(path)
    except ValueError as error:
        assert str(path) in str(error)


@given(st.lists(BYTES, max_size=60).map(bytes))
def test_noise_ends_in_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("pickles") / "noise.pkl"
    path.write_bytes(content + b".")
    try:
        read_restricted_pickle(path)
    except ValueError as error:
        assert str(path) in str(error)
