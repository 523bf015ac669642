"""The aligned release of MOSI and MOSEI: what is read from it, and that nothing in it is ever run."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labkit import LabkitError
from labkit.data import aligned, pickles
from labkit.data.aligned import Aligned

NAMES = {"train": "train", "val": "valid", "test": "test"}


def part(n: int, audio: int = 5, vision: int = 20, seed: int = 0) -> dict[str, Any]:
    """One split as the release has it, with lengths 3, 4, ..., and audio that is -inf at one place."""
    random = np.random.default_rng(seed)
    mask = (np.arange(50) < 3 + np.arange(n)[:, None]).astype(np.float64)
    tokens = np.stack([mask * 101, mask, 0 * mask], 1)
    sound = random.standard_normal((n, 50, audio))
    sound[0, 1, 2] = -np.inf
    words = [f"word {i} é" for i in range(n)]
    return {
        "raw_text": np.array(words, object),
        "audio": sound,
        "vision": random.standard_normal((n, 50, vision)),
        "id": [f"video$_${i}" for i in range(n)],
        "text": random.standard_normal((n, 50, 768)).astype(np.float32),
        "text_bert": tokens,
        "annotations": np.array(["Positive", "Neutral"] * n)[:n],
        "classification_labels": np.ones(n),
        "regression_labels": np.linspace(-3, 3, n),
    }


def release(**sizes: int) -> dict[str, dict[str, Any]]:
    return {
        name: part(n, seed=i)
        for i, (name, n) in enumerate((sizes or {"train": 4, "valid": 2, "test": 3}).items())
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    return tmp_path


def write(folder: Path, content: Any, protocol: int = 4) -> Aligned:
    raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
    (folder / "aligned_50.pkl").write_bytes(raw)
    return Aligned("aligned_50.pkl")


# What is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_batch(folder: Path, protocol: int) -> None:
    whole = release()
    data = write(folder, whole, protocol)
    for split, name in NAMES.items():
        batch, given = data.load(split), whole[name]  # type: ignore[arg-type]
        assert batch.modalities == aligned.MODALITIES and batch.observed.all()
        for ours, theirs in aligned.KEYS.items():
            expected = torch.from_numpy(given[theirs].astype(np.float32))
            assert torch.equal(batch.x[ours], torch.where(expected == -torch.inf, 0, expected))
        assert batch.x["audio"][0, 1, 2] == 0
        assert batch.y is not None and batch.y.dtype == torch.float32
        assert batch.y.tolist() == given["regression_labels"].astype(np.float32).tolist()
        assert batch.factors["length"].tolist() == [3 + i for i in range(len(batch))]


def test_glove_vectors_start_at_the_first_word_and_samples_without_one_are_left_out(
    folder: Path,
) -> None:
    random = np.random.default_rng(0)
    widths = {"text": 300, "audio": 74, "vision": 35}
    content: dict[str, Any] = {}
    for name in NAMES.values():
        arrays = {key: random.standard_normal((4, 50, n)) for key, n in widths.items()}
        arrays["text"][0, :48] = 0  # two words, the padding before them
        arrays["text"][1] = 0  # no word
        arrays["audio"][0, 49, 3] = -np.inf
        ids = np.array([["video", "0", "1"]] * 4)
        content[name] = {**arrays, "labels": np.linspace(-3, 3, 4).reshape(4, 1, 1), "id": ids}
    write(folder, content)
    data = Aligned("aligned_50.pkl", "mosei", "glove")
    batch, given = data.load("val"), content["valid"]
    assert {name: x.shape for name, x in batch.x.items()} == {
        "language": (3, 50, 300), "audio": (3, 50, 74), "vision": (3, 50, 35),
    }  # fmt: skip
    assert batch.factors["length"].tolist() == [2, 50, 50]
    assert batch.y is not None and batch.y.tolist() == pytest.approx([-3, 1, 3])
    for ours, theirs in aligned.KEYS.items():
        expected = torch.from_numpy(given[theirs].astype(np.float32))
        expected = torch.where(expected == -torch.inf, 0, expected)
        assert torch.equal(batch.x[ours][0, :2], expected[0, 48:])
        assert not batch.x[ours][0, 2:].any()
        assert torch.equal(batch.x[ours][1:], expected[2:])
    assert batch.x["audio"][0, 1, 3] == 0
    with pytest.raises(LabkitError, match=r"mosei_senti_data.pkl .*MultiBench"):
        Aligned("nowhere.pkl", "mosei", "glove").load("test")
    with pytest.raises(ValueError, match="words must be 'bert' or 'glove', got 'elmo'"):
        Aligned("x", "mosei", "elmo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="words='glove' needs dataset='mosei'"):
        Aligned("x", "mosi", "glove")


def test_mosei_has_other_channels_and_paths_may_be_absolute(folder: Path) -> None:
    write(folder, {name: part(2, 74, 35) for name in NAMES.values()})
    data = Aligned(str(folder / "aligned_50.pkl"), dataset="mosei")
    assert [x.shape[2] for x in data.load("val").x.values()] == [768, 74, 35]
    with pytest.raises(LabkitError, match=r"train/audio of shape \(2, 50, 74\).*\(2, 50, 5\)"):
        Aligned("aligned_50.pkl").load("train")
    with pytest.raises(ValueError, match="dataset must be 'mosi' or 'mosei', got 'sims'"):
        Aligned("x", dataset="sims")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="split must be one of 'train', 'val', 'test'; got 'valid'"
    ):
        data.load("valid")  # type: ignore[arg-type]


def test_lengths_come_from_the_attention_mask(folder: Path) -> None:
    whole = release(train=3, valid=1, test=1)
    mask = whole["train"]["text_bert"][:, 1]
    mask[0], mask[1], mask[2] = 0, 1, 0
    mask[2, [0, 7]] = 1  # a gap is inside
    assert write(folder, whole).load("train").factors["length"].tolist() == [1, 50, 8]
    mask[1, 3] = 2
    with pytest.raises(LabkitError, match=r"text_bert with an attention mask from 0\.0 to 2\.0"):
        write(folder, whole).load("train")
    del whole["train"]["text_bert"]
    assert write(folder, whole).load("train").factors["length"].tolist() == [50] * 3


@pytest.mark.parametrize("make", [lambda y: y[:, None], list, lambda y: [float(v) for v in y],
                                  lambda y: y.astype(">f4"), np.asfortranarray])  # fmt: skip
def test_labels_come_in_several_forms(folder: Path, make: Callable[[Any], Any]) -> None:
    whole = release()
    whole["train"]["regression_labels"] = make(np.array([-3, -0.5, 0, 2.5]))
    y = write(folder, whole).load("train").y
    assert y is not None and y.tolist() == [-3, -0.5, 0, 2.5]


def test_arrays_in_any_order_of_memory_are_read(folder: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    forms = [array, np.asfortranarray(array), array.transpose(1, 0, 2), array[:, ::2],
             array.astype("<i2"), array.astype(">f4"), array > 3, array.astype("U6"),
             array.astype("S3"), np.array(7.0)]  # fmt: skip
    numbers, path = [*array[0, 0].tolist(), array[1, 1, 1]], folder / "forms.pkl"
    for protocol in range(6):
        shown = forms if protocol < 3 else [*forms, array[:0]]  # below 3 nothing can be nothing
        path.write_bytes(pickle.dumps({"forms": shown, "numbers": numbers}, protocol=protocol))
        read = pickles.read_pickle(path)
        assert read["numbers"] == [0, 1, 2, 3, 17]
        for expected, found in zip(shown, read["forms"], strict=True):
            np.testing.assert_array_equal(found.values, expected)
            assert found.values.dtype == expected.dtype


# What is wrong -------------------------------------------------------------------------------------


def test_containers_of_every_kind_are_read(folder: Path) -> None:
    given = {"a": [1, -2, 10**30, 2.5, True, None], 7: ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
             "sets": [{1, "b"}, frozenset((3, b"c"))], "text": ["é" * 300, "", b"x" * 300, bytearray(b"y")],
             "nested": {"d": {}, "l": [[]]}}  # fmt: skip
    given["again"] = given["a"]
    path = folder / "containers.pkl"
    for protocol in reversed(range(6)):
        path.write_bytes(pickle.dumps(given, protocol=protocol))
        read = pickles.read_pickle(path)
        assert read == given and read["again"] is read["a"]
        if protocol == 5:
            given["text"].pop()  # type: ignore[attr-defined]  # older ones write bytearrays by other means
        if protocol == 4:
            del given["sets"]  # and sets


def test_a_missing_file_says_what_to_put_where(folder: Path) -> None:
    with pytest.raises(LabkitError) as caught:
        Aligned("upstream/mosei/aligned_50.pkl", dataset="mosei").load("train")
    for words in ("MOSEI (about 4 GB)", "github.com/thuiar/MMSA", "labkit.data.affect",
                  str(folder / "upstream" / "mosei" / "aligned_50.pkl")):  # fmt: skip
        assert words in str(caught.value)


def changed(key: str, value: Any, name: str = "train") -> dict[str, Any]:
    whole = release()
    if value is None:
        del whole[name][key]
    else:
        whole[name][key] = value
    return whole


def poisoned(value: float) -> np.ndarray:
    array = np.zeros((4, 50, 20))
    array[2, 3, 4] = value
    return array


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed("vision", None), r"found \['annotations'.* in train; allowed is vision too"),
        (changed("regression_labels", None), "regression_labels too"),
        ({"valid": part(2)}, r"found \['valid'\].*splits train, valid and test"),
        (list(part(2)), "found list"),
        ({"train": [], "valid": part(2), "test": 3}, "a dict of the splits"),
        (
            changed("audio", np.zeros((4, 50, 6))),
            r"train/audio of shape \(4, 50, 6\).*\(4, 50, 5\)",
        ),
        (changed("vision", np.zeros((3, 50, 20))), r"\(3, 50, 20\)"),
        (changed("text", np.zeros((4, 39, 768))), r"\(4, 39, 768\)"),
        (changed("text", np.zeros((4, 50, 768), object)), r"train/text of shape \(153600,\)"),
        (changed("text", "hello"), "train/text of str"),
        (changed("vision", np.full((4, 50, 20), "3")), "train/vision of <U1"),
        (changed("regression_labels", np.array([0, 1, 2, 3.5])), "labels from 0.0 to 3.5.*-3 to 3"),
        (changed("regression_labels", np.array([0, 1, 2, np.nan])), "labels from nan"),
        (changed("regression_labels", np.zeros((2, 2))), r"shape \(2, 2\).*\(N,\)"),
        (changed("regression_labels", np.zeros(0)), "N >= 1"),
        (changed("regression_labels", [0, 1, "2", 3]), "regression_labels of list"),
        (changed("vision", poisoned(-np.inf)), "train/vision with 1 numbers that are not finite"),
        (changed("vision", poisoned(np.nan)), "not finite"),
        (changed("audio", poisoned(np.inf)[..., :5]), "train/audio with 1 numbers"),
        (changed("text_bert", np.zeros((4, 50, 3))), r"text_bert of shape \(4, 50, 3\)"),
    ],
)
def test_wrong_contents_are_named(folder: Path, content: Any, words: str) -> None:
    with pytest.raises(LabkitError, match=words):
        write(folder, content).load("train")


def test_files_that_are_no_whole_pickle_are_refused(folder: Path) -> None:
    whole = pickle.dumps(release(), protocol=4)
    cuts = [whole[:n] for n in (0, 1, 2, 11, 100, 1000, len(whole) // 2, len(whole) - 1)]
    texts = [
        b"<html>not found</html>",
        b"\x1f\x8b" + bytes(50),
        b"PK\x03\x04" + bytes(50),
        b"(((",
        b".",
    ]
    flipped = [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(0, 400, 3)]
    for raw in [*cuts, *texts, *flipped]:
        data = write(folder, raw)
        if raw in flipped and readable(folder / "aligned_50.pkl"):
            continue  # one number of the many, or a letter of a word, is another
        with pytest.raises(LabkitError, match=r"aligned_50\.pkl"):
            data.load("train")


def readable(path: Path) -> bool:
    try:
        return Aligned(str(path)).load("train") is not None
    except LabkitError:
        return False


# What is hostile -----------------------------------------------------------------------------------


class Calls:
    """Pickled as a call of a function, and what its result is changed by."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def raw(module: str, name: str, *arguments: bytes) -> bytes:
    """The opcodes of a call, by a name that is not looked up here."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def objects(thing: Any) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = thing
    return array


def attacks(trace: str) -> dict[str, Any]:
    """Pickles each of which, read by an ordinary reader, would do something (most: make a file)."""
    code = f"open({trace!r}, 'w').close()"
    numpy_type = b"cnumpy\ndtype\n(" + text("f4") + b"tR"
    return {
        "os.system": Calls(os.system, f"touch {trace}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, trace, "w"),
        "import": Calls(builtins.__import__, "os"),
        "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "getattr of numpy": raw("builtins", "getattr", b"cnumpy\nndarray\n", text("tofile")),
        "in a dict": {"train": {"audio": Calls(os.system, f"touch {trace}")}},
        "in an array": {"train": {"raw_text": objects(Calls(os.system, f"touch {trace}"))}},
        "as a key": {Calls(eval, code): 1},
        "as a state": Calls(np.dtype, "f4", state=Calls(eval, code)),
        "numpy.load": Calls(np.load, trace),
        "numpy.save": Calls(np.save, trace, 1),
        "numpy.fromfile": raw("numpy", "fromfile", text(trace)),
        "numpy.memmap": Calls(np.memmap, trace, "u1", "w+", 0, 8),
        "numpy.f2py": raw("numpy.f2py", "compile", text("end")),
        "numpy.testing": raw("numpy.testing._private.utils", "runstring", text(code), b"}"),
        "numpy.fromstring": raw("numpy.core.multiarray", "fromstring", text("1 2"), text("f8")),
        "numpy.frompyfunc": raw("numpy", "frompyfunc", b"cbuiltins\neval\n", b"K\x01K\x01"),
        "numpy.recarray": raw("numpy", "recarray", b"K\x01", text("f4")),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
        "dotted module": b"\x80\x04\x8c\x15numpy.core.multiarray\x94\x8c\x09os.system\x93.",
        "multiarray.os": raw("numpy.core.multiarray", "os", text(trace)),
        "_codecs.lookup": raw("_codecs", "lookup", text("rot13")),
        "_codecs.encode to a codec": raw("_codecs", "encode", text("x"), text("zlib")),
        "_codecs.encode of no text": raw("_codecs", "encode", b"}", text("latin1")),
        "_codecs.encode with errors": raw("_codecs", "encode", text("x"), text("latin1"), text("e")),
        "copyreg": raw("copyreg", "__newobj__", b"cio\nBytesIO\n"),
        "reconstructor": raw("copyreg", "_reconstructor", b"cbuiltins\nobject\n", b"cbuiltins\nobject\nN"),
        "python 2": raw("__builtin__", "eval", text(code)),
        "a class": raw("collections", "OrderedDict"),
        "functools": raw("functools", "partial", b"cbuiltins\neval\n", text(code)),
        "persistent": b"\x80\x04" + text("a") + b"Q.",
        "extension": b"\x80\x04\x82\x01.",
        "instance": b"(" + text(f"touch {trace}") + b"ios\nsystem\n.",
        "object": b"(cnumpy\ndtype\n" + text("f4") + b"o.",
        "deep key": b"}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
        "deep member": b"\x80\x04\x8f()" + b"\x85" * 100_000 + b"\x90.",
        "no stack": b"R.",
        "no mark": b"t.",
        "two results": b"NN.",
        "no memo": b"h\x07.",
        "items of a number": b"K\x01K\x02a.",
        "state of a dict": b"}}b.",
        "out of band": b"\x80\x05\x97.",
        "call of a string": b"cnumpy\nndarray\n(tR.",
        "call of a list": b"](tR.",
        "new object of a string": b"\x80\x02cnumpy\nndarray\n)\x81.",
        "new object of a function": b"\x80\x02cnumpy\ndtype\n)\x81.",
        "state of a function": b"cnumpy\ndtype\n}" + text("x") + b"K\x01sb.",
        "slots of a function": b"cnumpy\ndtype\nN}" + text("_call") + text("x") + b"s\x86b.",
        "subclass": raw("numpy.core.multiarray", "_reconstruct", b"cnumpy\nmatrix\n(K\x00t" + text("b")),
        "other class": raw("numpy.core.multiarray", "_reconstruct", text("os"), b"(K\x00t" + text("b")),
        "records": np.zeros(2, [("a", "f4"), ("b", object)]),
        "type of a record": Calls(np.dtype, "f4", state=(3, "|", None, ("a",), {"a": 1}, 8, 1, 0)),
        "subtype": np.dtype(("f4", (2,))),
        "time": np.zeros(2, "M8[s]"),
        "objects from bytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x01tcnumpy\ndtype\n(" + text("O8") + b"tR\x89U\x08AAAAAAAAtb.",
        "object from bytes": raw("numpy.core.multiarray", "scalar", b"cnumpy\ndtype\n(" + text("O") + b"tR",
                                 b"C\x08AAAAAAAA"),
        "longer than its bytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x09t" + numpy_type + b"\x89C\x04AAAAtb.",
        "negative": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(J\xff\xff\xff\xfft" + numpy_type + b"\x89C\x04AAAAtb.",
        "two numbers in one": raw("numpy.core.multiarray", "scalar", numpy_type, b"C\x08AAAAAAAA"),
        "strange type": raw("numpy", "dtype", text("f4,f4")),
        "type of a type": raw("numpy", "dtype", b"}"),
        "strange order": raw("numpy.core.numeric", "_frombuffer", b"C\x04AAAA", numpy_type, b"(K\x01t",
                             text("Z")),
        "axes": raw("numpy.core.numeric", "_frombuffer", b"C\x04AAAA", numpy_type, b"(K\x01t", text("K"),
                    b"(K\x07t"),
    }  # fmt: skip


@pytest.mark.parametrize("attack", list(attacks("")))
def test_nothing_of_a_hostile_file_is_run(folder: Path, attack: str) -> None:
    trace = folder / "trace"
    content = attacks(str(trace))[attack]
    data = write(folder, content, protocol=2)
    before = dict(vars(pickles)), dict(pickles._KNOWN), pickles._Type.__init__
    with pytest.raises(LabkitError, match=r"aligned_50\.pkl"):
        data.load("train")
    assert not trace.exists() and not trace.with_suffix(".npy").exists()
    assert before == (dict(vars(pickles)), dict(pickles._KNOWN), pickles._Type.__init__)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_the_refused_global_is_named(folder: Path, protocol: int) -> None:
    name = r"asks for (posix|nt|os)\.system\."
    hidden = changed("raw_text", objects(Calls(os.system, f"touch {folder / 'trace'}")))
    for content in (Calls(os.system, "true"), hidden):
        with pytest.raises(LabkitError, match=name):
            write(folder, content, protocol).load("train")
    with pytest.raises(LabkitError, match=r"asks for numpy.*\.memmap"):
        write(folder, Calls(np.memmap, "x"), protocol).load("train")
    assert not (folder / "trace").exists()


def test_the_attacks_would_work_on_an_ordinary_reader(tmp_path: Path) -> None:
    """The control: what is refused above is dangerous indeed."""
    trace = tmp_path / "trace"
    for name in ("os.system", "eval", "open", "in an array", "numpy.save"):
        content = pickle.dumps(attacks(str(trace))[name], protocol=2)
        made = pickle.loads(content)
        if name == "open":
            made.close()
        (trace if trace.exists() else trace.with_suffix(".npy")).unlink()
