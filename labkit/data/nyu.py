"""NYU Depth V2: 1,449 pictures of rooms with depth and labels of their pixels, of 13 classes.

The real half of `labkit.data.rooms`, read from the pack, 96 x 128 pixels, or from the published files, which
are reduced to that. Split as published: 795 pictures train, 654 test; of the 795 some are held out by seed
for validation. Several pictures may show one room, and nothing in the pack says which: those held out may
show a room that trains too, so that validation figures may be too good.

In the pack, training labels of "other prop", a part of `objects`, are missing (-1): 8.6 % of the training
pixels are `objects`, 12.7 % of the test's. Read from the published files none are.

Source:
    Silberman, Hoiem, Kohli & Fergus, "Indoor segmentation and support inference from RGBD images", ECCV 2012.
    The 13 classes: Couprie, Farabet, Najman & LeCun, "Indoor semantic segmentation using depth information",
    ICLR 2013, as github.com/ankurhanda/nyuv2-meta-data has them.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files, formats, real
from labkit.data.draws import permutation
from labkit.files import cache_dir

CLASSES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv",
    "wall", "window",
)  # fmt: skip
SIZE = (96, 128)  # rows and columns of the pack
LEVELS = 25.5  # of the pack's depth, a metre
RELEASE = (480, 640)  # rows and columns of the published pictures
FOLDER = "upstream/nyuv2"
CHUNK = 32  # pictures reduced at a time
PACK, PICTURES, SPLIT, TO_13, LABELS_40 = (
    files.entry(name)
    for name in (
        "nyuv2.npz", "nyu_depth_v2_labeled.mat", "splits.mat", "class13Mapping.mat", "labels40.mat",
    )
)  # fmt: skip
# Instead of LABELS_40, whose pixels have labels of 40 classes: which of the 40 each of the 894 is.
TO_40 = files.Entry(
    "nyuv2", f"{FOLDER}/classMapping40.mat",
    "https://github.com/VainF/nyuv2-python-toolkit/raw/master/classMapping40.mat",
    PICTURES.licence, None, None,
)  # fmt: skip

Array = NDArray[Any]


def load(split: str, height: int = 96, seed: int = 0, held_out: int = 100) -> Batch:
    """Read one split.

    Args:
        split: "train", "val" or "test".
        height: 96, or 48: colours are then means of four pixels, depths the smaller of their two middle ones,
            labels the most frequent.
        seed: Which training pictures are held out: they are drawn.
        held_out: How many of the training pictures make up the validation split; 0 = there is none.

    Returns:
        rgb (B, 3, H, W) in [0, 1]; depth (B, 1, H, W), metres, filled in where the camera had holes; labels
        (B, H, W), 0 to 12 as `CLASSES`, -1 = none. Factor `image` (B,): number of the picture, 0 to 1448.

    Raises:
        ValueError: if the split does not exist, or too many are held out.
        LabkitError: if a file is missing or damaged; the message says what to put where.
    """
    table = _table()
    test = table["is_test"].astype(bool)
    known = np.flatnonzero(~test)
    if split not in ("train", "test") and (split != "val" or not held_out):
        raise ValueError(
            f"split must be 'train' or 'test' with held_out={held_out}, which leaves nothing to validate on; "
            f"got {split!r}"
            if split == "val"
            else f"split must be one of 'train', 'val', 'test'; got {split!r}"
        )
    if not 0 <= held_out < len(known):
        raise ValueError(f"held_out must lie in 0..{len(known) - 1}, got {held_out}")
    order = permutation(len(known), "nyuv2", seed).numpy()
    held = np.sort(known[order[:held_out]])
    rows = {"train": np.sort(known[order[held_out:]]), "val": held, "test": np.flatnonzero(test)}[
        split
    ]
    rgb = torch.from_numpy(_pictures(table, rows)).float() / 255
    depth = torch.from_numpy(table["depth"][rows]).float()[:, None]
    if table["depth"].dtype == np.uint8:
        depth = depth / LEVELS
    labels = torch.from_numpy(table["labels13"][rows].astype(np.int64)) - 1
    if height != SIZE[0]:
        block = SIZE[0] // height
        rgb, depth, labels = avg_pool2d(rgb, block), middle(depth, block), majority(labels, block)
    return Batch({"rgb": rgb, "depth": depth}, y=labels, factors={"image": torch.from_numpy(rows)})


def middle(depth: Tensor, block: int) -> Tensor:
    """Median of each block x block pixels, (..., H, W).

    Of an even number the lower one: a mean of two would lie in the air between what is near and far.
    """
    rows, columns = depth.shape[-2] // block, depth.shape[-1] // block
    cells = depth.unflatten(-1, (columns, block)).unflatten(-3, (rows, block)).transpose(-2, -3)
    return cells.flatten(-2).median(-1).values


def majority(labels: Tensor, block: int) -> Tensor:
    """Most frequent label of each block x block pixels: (B, H, W) int64, -1 to 12.

    Of equally frequent ones the smallest, and any class rather than none.
    """
    most = labels.new_zeros(
        len(labels), labels.shape[1] // block, labels.shape[2] // block, dtype=torch.float32
    )
    made = torch.full_like(most, -1, dtype=torch.int64)
    for label in (*range(len(CLASSES)), -1):
        share = avg_pool2d((labels == label).float()[:, None], block)[:, 0]
        made = torch.where(share > most, label, made)
        most = torch.maximum(share, most)
    return made


# From files to a table -----------------------------------------------------------------------------


def _table() -> dict[str, Array]:
    """`depth` and `labels13` (N, 96, 128), `is_test` (N,), and `rgb` (N, 3, 96, 128) or the pack's JPEGs."""
    path = _place(PACK)
    if path is not None:
        return _packed(files.verified(PACK, path))
    return _published()


def _place(wanted: files.Entry) -> Path | None:
    """Where a file is on this machine, or None."""
    found = (root / wanted.file for root in files.roots())
    return next((path for path in found if path.is_file()), None)


def _packed(path: Path) -> dict[str, Array]:
    arrays = formats.read_pack(path, {
        "rgb_jpeg": ("u", (None,)), "rgb_offsets": ("i", (None,)), "depth": ("u", (None, *SIZE)),
        "labels13": ("u", (None, *SIZE)), "is_test": ("b", (None,)), "class_names": ("U", (14,)),
    })  # fmt: skip
    offsets, count = arrays["rgb_offsets"], len(arrays["is_test"])
    lengths = {len(arrays["depth"]), len(arrays["labels13"]), len(offsets) - 1}
    if lengths != {count} or offsets[0] != 0 or offsets[-1] != len(arrays["rgb_jpeg"]) or (
        np.diff(offsets) <= 0
    ).any():  # fmt: skip
        raise formats.damaged(
            path, "pictures, depths and labels of different numbers", "as many of each"
        )
    if tuple(arrays["class_names"][1:]) != CLASSES or arrays["labels13"].max() > len(CLASSES):
        raise formats.damaged(path, "other classes", ", ".join(CLASSES))
    return arrays


def _pictures(table: dict[str, Array], rows: Array) -> NDArray[np.uint8]:
    """Pictures of these rows, (B, 3, 96, 128)."""
    if "rgb" in table:
        chosen: NDArray[np.uint8] = table["rgb"][rows]
        return chosen
    from PIL import Image

    data, offsets = table["rgb_jpeg"], table["rgb_offsets"]
    made = np.empty((len(rows), *SIZE, 3), np.uint8)
    for place, row in zip(made, rows, strict=True):
        content = data[offsets[row] : offsets[row + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(content)) as picture:
                place[:] = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise formats.damaged(
                PACK.file, f"picture {row} ({error})", "a JPEG of 128 x 96 pixels"
            ) from error
    return made.transpose(0, 3, 1, 2)


# Published files -----------------------------------------------------------------------------------


def _published() -> dict[str, Array]:
    """The pack's arrays made from the published files; depth in metres."""
    pictures, split, to_13, to_40 = _need()
    paths = (pictures, split, to_13, to_40)
    for wanted, path in ((SPLIT, split), (TO_13, to_13)):
        files.verified(wanted, path)
    # Made in minutes; sizes and times of the files stand for their hashes.
    seen = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return real._kept("nyuv2", [code, *seen], lambda: read_release(*paths))


def _need() -> tuple[Path, Path, Path, Path]:
    """The four files of the release that are needed."""
    labels = LABELS_40 if _place(LABELS_40) is not None or _place(TO_40) is None else TO_40
    wanted = (PICTURES, SPLIT, TO_13, labels)
    found = [_place(item) for item in wanted]
    missing = [item for item, path in zip(wanted, found, strict=True) if path is None]
    if missing:
        looked = " and ".join(map(str, files.roots()))
        lines = "; ".join(f"{item}, from {item.url}" for item in missing)
        either = f" (instead of {LABELS_40.file}, {TO_40.file} from {TO_40.url} will do)"
        raise LabkitError(
            f"NYU Depth V2 is not in {looked}: neither {PACK}, nor all of its published files. Missing: "
            f"{lines}{either if LABELS_40 in missing else ''}. Put them into "
            f"{cache_dir() / 'data' / FOLDER}, or set LABKIT_DATA to the folder that holds "
            f"{FOLDER} or the pack {PACK.file}. Procedural rooms "
            f"(source='procedural') need no download."
        )
    first, second, third, fourth = (path for path in found if path is not None)
    return first, second, third, fourth


def read_release(pictures: Path, split: Path, to_13: Path, to_40: Path) -> dict[str, Array]:
    """Read the published files and reduce the pictures as the pack does.

    Args:
        pictures: nyu_depth_v2_labeled.mat (HDF5): images (N, 3, 640, 480), depths and labels (N, 640, 480),
            with columns before rows, and names (1, 894) of the labels' classes, which count from 1, 0 = none.
        split: splits.mat: trainNdxs and testNdxs, numbers of pictures from 1.
        to_13: class13Mapping.mat: which of 13 each of 40 classes is.
        to_40: labels40.mat, labels of 40 classes (480, 640, N); or classMapping40.mat, mapClass (1, 894).

    Returns:
        Of 5 x 5 pixels each: rgb (N, 3, 96, 128), uint8, means; depth (N, 96, 128), float16, metres, medians;
        labels13 (N, 96, 128), uint8, 0 = none, the most frequent. is_test (N,), bool.

    Raises:
        LabkitError: if h5py is not installed, a file is damaged or files disagree.
    """
    try:
        import h5py
    except ImportError as error:
        raise LabkitError(f"{pictures} needs h5py: pip install labkit[data]") from error
    thirteen = _thirteen(to_13)
    try:
        with h5py.File(pictures, "r") as file:
            count, names = _checked(pictures, file)
            is_test = _is_test(split, count)
            forty, to_40_table = _forty(to_40, count, names)
            made: dict[str, list[Tensor]] = {"rgb": [], "depth": [], "labels13": []}
            for start in range(0, count, CHUNK):
                rows = slice(start, start + CHUNK)
                images, depth, labels = (
                    torch.from_numpy(
                        np.asarray(file[name][rows]).swapaxes(-1, -2).copy().astype(kind)
                    )
                    for name, kind in (
                        ("images", np.float32),
                        ("depths", np.float32),
                        ("labels", np.int64),
                    )
                )
                if forty is not None:
                    labels = torch.from_numpy(forty[..., rows].transpose(2, 0, 1).astype(np.int64))
                elif int(labels.max()) >= len(to_40_table):
                    raise formats.damaged(
                        pictures, f"label {int(labels.max())}", f"0 to {len(to_40_table) - 1}"
                    )
                else:
                    labels = to_40_table[labels]
                block = RELEASE[0] // SIZE[0]
                made["rgb"].append(avg_pool2d(images, block).round().to(torch.uint8))
                made["depth"].append(middle(depth, block).to(torch.float16))
                made["labels13"].append((majority(thirteen[labels] - 1, block) + 1).to(torch.uint8))
    except OSError as error:  # h5py's for whatever is wrong with a file
        raise formats.damaged(
            pictures, f"an unreadable file ({error})", "MATLAB 7.3 format"
        ) from error
    return {name: torch.cat(parts).numpy() for name, parts in made.items()} | {"is_test": is_test}


def _checked(path: Path, file: Any) -> tuple[int, int]:
    """Number of pictures and of classes in the HDF5 file."""
    absent = sorted({"images", "depths", "labels", "names"} - set(file))
    if absent:
        raise formats.damaged(path, f"variables {sorted(file)}", f"a file that has {absent} too")
    count, turned = len(file["images"]), RELEASE[::-1]
    shapes = {"images": (count, 3, *turned), "depths": (count, *turned), "labels": (count, *turned)}
    for name, shape in shapes.items():
        if file[name].shape != shape or not count:
            raise formats.damaged(path, f"{name} of shape {file[name].shape}", f"shape {shape}")
    return count, int(file["names"].size)


def _is_test(path: Path, count: int) -> NDArray[np.bool_]:
    """Which pictures the published split tests on."""
    train, test = (
        formats.read_mat(path, name, (None, 1)).ravel().astype(int)
        for name in ("trainNdxs", "testNdxs")
    )
    if sorted([*train.tolist(), *test.tolist()]) != list(range(1, count + 1)):
        raise formats.damaged(
            path,
            f"{len(train)} + {len(test)} numbers",
            f"1 to {count}, each once, as there are pictures",
        )
    return np.isin(np.arange(1, count + 1), test)


def _thirteen(path: Path) -> Tensor:
    """Which of 13 classes each of 40 is, from class13Mapping.mat: (41,), 0 = none first."""
    content = formats._mat(path)
    try:
        numbers = np.asarray(content["classMapping13"][0, 0][0]).ravel().astype(np.int64)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        names = sorted(name for name in content if not name.startswith("__"))
        raise formats.damaged(path, f"variables {names}", "a structure classMapping13") from error
    if len(numbers) != 40 or numbers.min() < 0 or numbers.max() > len(CLASSES):
        found = f"{len(numbers)} numbers"
        raise formats.damaged(path, found, f"40 numbers from 0 to {len(CLASSES)}")
    return torch.from_numpy(np.concatenate(([0], numbers)))


def _forty(path: Path, count: int, names: int) -> tuple[Array | None, Tensor]:
    """Labels of 40 classes, or which of the 40 each class of the pictures' labels is, (1 + names,)."""
    if path.name == Path(LABELS_40.file).name:
        labels = formats.read_mat(path, "labels40", (*RELEASE, count))
        if labels.max() > 40:
            raise formats.damaged(path, f"label {labels.max()}", "0 to 40")
        return labels, torch.zeros(0, dtype=torch.int64)
    table = formats.read_mat(path, "mapClass", (1, names)).ravel().astype(np.int64)
    if table.min() < 0 or table.max() > 40:
        raise formats.damaged(path, f"classes {table.min()} to {table.max()}", "0 to 40")
    return None, torch.from_numpy(np.concatenate(([0], table)))
