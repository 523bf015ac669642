"""MM-IMDB: 25,959 movies, each with a plot, a poster and some of 23 genres.

Reads `multimodal_imdb.hdf5` of its authors: of the plot the mean of its words' vectors (word2vec, 300
numbers), of the poster what a VGG-16 network makes of it (4,096 numbers). It is the release that DynMM and
MultiBench report on. It has to be put in place by hand, for nobody has published its hash; and it is large,
with the posters themselves in it, which are not read. The real half of `labkit.data.movies`.

Source:
    Arevalo, Solorio, Montes-y-Gomez & Gonzalez, "Gated Multimodal Units for Information Fusion", 2017
    (github.com/johnarevalo/gmu-mmimdb; make_dataset.py has the order of genres and splits). Sizes of the
    splits: Liang et al., "MultiBench", NeurIPS Datasets 2021, datasets/imdb/get_data.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files
from labkit.files import sha256_of

FILE, ADDRESS = (
    files.entry("multimodal_imdb.hdf5").file,
    files.entry("multimodal_imdb.hdf5").url,
)
KEYS = {"text": "features", "image": "vgg_features"}  # in the file
WIDTHS = {"text": 300, "image": 4096}
GENRES = 23
SPLITS = ("train", "val", "test")
SIZES = (15_552, 2_608, 7_799)  # samples of the splits, which follow each other in the file

Split = Literal["train", "val", "test"]
Array = NDArray[Any]


@dataclass(frozen=True)
class MmImdb:
    """The release of MM-IMDB.

    Args:
        path: The file, absolute or below a data folder ($LABKIT_DATA).
        sha256: Hash of the file, if you know it: it is compared before anything is read. None = the file is
            known by its arrays alone.
        sizes: Samples of the training, validation and test split, in the order of the file; other than the
            release's only for a file of one's own.

    Raises:
        ValueError: if `sizes` are not three numbers of at least 1, or `sha256` is not 64 hexadecimal digits.
    """

    path: str = FILE
    sha256: str | None = None
    sizes: tuple[int, int, int] = SIZES

    def __post_init__(self) -> None:
        if len(self.sizes) != 3 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be three numbers of at least 1, got {self.sizes}")
        digits = "0" * 64 if self.sha256 is None else self.sha256
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"sha256 must be 64 digits of 0-9 and a-f, got {self.sha256!r}")

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Read one split.

        Args:
            split: "train", "val" ("dev" to its authors) or "test".
            device: Where the tensors shall be; None = CPU.

        Returns:
            text (B, 300) and image (B, 4096), float32, as they are in the file, not standardised; y (B, 23),
            float32, 1 where a movie has the genre, else 0, in the order of `genres`.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if the file is missing, damaged or not of this layout, or h5py is not installed.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        ends = [0, *accumulate(self.sizes)]
        at = SPLITS.index(split)
        rows = slice(ends[at], ends[at + 1])
        with _File(self._found(), ends[-1]) as file:
            x = {}
            for name, key in KEYS.items():
                values = file.numbers(key, WIDTHS[name], rows).astype(np.float32)
                if not np.isfinite(values).all():
                    count = int((~np.isfinite(values)).sum())
                    raise file.damaged(
                        f"{key} with {count} numbers that are not finite", "finite numbers"
                    )
                x[name] = torch.from_numpy(values)
            truth = file.numbers("genres", GENRES, rows)
        if not np.isin(truth, (0, 1)).all():
            raise file.damaged(f"genres from {truth.min()} to {truth.max()}", "0 and 1")
        y = torch.from_numpy(truth.astype(np.float32))
        return Batch(x, y=y).to(torch.device("cpu" if device is None else device))

    def genres(self) -> tuple[str, ...]:
        """Names of the 23 genres, commonest first, as the file has them.

        Raises:
            LabkitError: as `load`, or if the file names none.
        """
        with _File(self._found(), sum(self.sizes)) as file:
            given = file.dataset("genres", GENRES).attrs.get("target_names")
            try:
                names = json.loads(given)
            except (TypeError, ValueError):
                names = None
            if (
                not isinstance(names, list)
                or len(names) != GENRES
                or not all(isinstance(name, str) for name in names)
            ):
                raise file.damaged(f"target_names {given!r}", f"a list of {GENRES} names")
            return tuple(names)

    def _found(self) -> Path:
        places = [root / self.path for root in files.roots()]  # an absolute path stays what it is
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise LabkitError(
                f"{' and '.join(dict.fromkeys(map(str, places)))}: not there. multimodal_imdb.hdf5 of "
                f"MM-IMDB is not fetched, for nobody has published its hash: get it from {ADDRESS} (or from "
                f"one who has it) and put it at {places[0]}. Procedural movies (source='procedural') need no "
                f"download."
            )
        if self.sha256 is not None and (digest := sha256_of(found)) != self.sha256:
            raise LabkitError(
                f"{found} is not the file it should be: its sha256 is {digest}, expected {self.sha256}. "
                f"Get it again, or correct the hash."
            )
        return found


class _File:
    """The open file; all of its errors name it."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows

    def __enter__(self) -> _File:
        try:
            import h5py
        except ImportError as error:
            raise LabkitError(f"{self.path} needs h5py: pip install labkit[data]") from error
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise self.damaged(f"an unreadable file ({error})", "HDF5") from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def damaged(self, found: str, allowed: str) -> LabkitError:
        return LabkitError(
            f"{self.path} is damaged or not the file it should be: found {found}; allowed is {allowed}. "
            f"Delete it and get it again from {ADDRESS}."
        )

    def dataset(self, key: str, width: int) -> Any:
        """A dataset of numbers, (rows, width), whose numbers lie in this file."""
        import h5py

        link = self._file.get(key, getlink=True)
        here = (
            self._file[key] if isinstance(link, h5py.HardLink) else None
        )  # no link to another file
        if not isinstance(here, h5py.Dataset) or here.is_virtual or here.external:
            raise self.damaged(
                f"no array {key!r} in {sorted(self._file)}", f"{key} in the file itself"
            )
        shape = (self.rows, width)
        if here.dtype.kind not in "fiub" or here.shape != shape:
            raise self.damaged(
                f"{key} of type {here.dtype} and shape {here.shape}", f"numbers of shape {shape}"
            )
        return here

    def numbers(self, key: str, width: int, rows: slice) -> Array:
        """Some rows of a dataset."""
        dataset = self.dataset(key, width)
        try:
            values: Array = dataset[rows]
        except (OSError, RuntimeError) as error:
            raise self.damaged(f"{key} that cannot be read ({error})", "a whole file") from error
        return values
