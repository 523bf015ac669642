"""Where the real data come from, where they lie here, and whether they are what they should be.

Files are looked for under $LABKIT_DATA, then under labkit's cache; what is found nowhere is
downloaded from its authors into the cache. Two layouts are understood in either place: the originals
(`upstream/hoda/...`, as published) and the packs (`digits/hoda.npz`, the same data reduced).
Every file is compared with a known SHA-256 before it is used, but for those whose hashes nobody has
published: RAVDESS's recordings and UTD-MHAD's clips, NYU Depth's pictures, MM-IMDB, and the clips of
EPIC-KITCHENS-100. They are known by their names, and have to be put in place by hand; their readers check
what is in them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from labkit import LabkitError
from labkit.data import formats
from labkit.files import cache_dir, sha256_of

DATASETS = ("hoda", "kannada", "fsdd", "ravdess", "mosi", "utd_mhad", "nyuv2", "mmimdb", "epic")
FSDD_FOLDER = "upstream/fsdd"
RAVDESS_FOLDER = "upstream/ravdess"
CLIPS = 1440  # spoken clips of RAVDESS, 60 an actor
UTD_MHAD_FOLDER = "upstream/utd_mhad"
PERFORMANCES = 861  # of UTD-MHAD, three files each


@dataclass(frozen=True)
class Entry:
    """One file of a data set.

    Args:
        dataset: One of `DATASETS`.
        file: Where it lies below a data folder, for instance "upstream/hoda/Test 20000.cdb"; a folder ends
            in a slash.
        url: Where it is published; "" for a pack, which is made from the originals.
        licence: Terms of use, in short.
        size: Bytes; of recordings and clips those of all of them; None = not stated anywhere.
        sha256: Hash of the whole file; None where nobody has published one. FSDD's archive has no stable
            bytes: its 3,000 recordings are compared one by one with the list in fsdd.txt.
    """

    dataset: str
    file: str
    url: str
    licence: str
    size: int | None
    sha256: str | None

    @property
    def local(self) -> Path | None:
        """Where the file is on this machine (not yet verified), or None."""
        for root in roots():
            place = root / self.file
            if place.is_dir() if self.file.endswith("/") else place.is_file():
                return place
            if self.sha256 is None and self.dataset not in BY_HAND:
                if self.dataset in _BY_NAME:
                    found = _BY_NAME[self.dataset][0](root)
                else:
                    found = _other_recordings(root / FSDD_FOLDER)
                if found is not None:
                    return found
        return None

    def __str__(self) -> str:
        size = "size not stated" if self.size is None else f"{self.size / 1e6:.1f} MB"
        return f"{self.file} of {self.dataset} ({size})"


_RAW = "https://raw.githubusercontent.com/"
_HODA_TEST = _RAW + (
    "amir-saniyan/HodaDatasetReader/728dd5465fcf38c3c82a1d3fda721da30b2e70ed/"
    "DigitDB/Test%2020000.cdb"
)
_HODA_TRAIN = _RAW + (
    "Alireza-Akhavan/class.vision/8a6f44e05976d20d7b9fd9718feeb7fd0760da0c/"
    "dataset/Data_hoda_full.mat"
)
_KANNADA = _RAW + (
    "vinayprabhu/Kannada_MNIST/f8390ece0c6990551e6f35189ccc42757bb29c43/"
    "data/output_tensors/MNIST_format/"
)
_FSDD = (
    "https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/tar.gz/"
    "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
)
_NON_COMMERCIAL = "research and non-commercial use only (Khosravi & Kabir 2007)"
_CITE = "cite the paper (Prabhu, arXiv:1908.01242); no licence file"
_SHARE_ALIKE = "CC BY-SA 4.0"
_AUS = _RAW + (
    "cristinalunaj/MMEmotionRecognition/aeb78449206ec2742d2cd886052322295c6c1321/"
    "data/trainingData/avg_MLP80_AUs/data_AUs_avg/df_average_AUs_total.csv"
)
_RAVDESS = "CC BY-NC-SA 4.0 (Livingstone & Russo 2018)"
_MOSI = _RAW + (
    "declare-lab/multimodal-deep-learning/111b401d867c14a1dcd930fd2b2ab58a5eca3f70/"
    "contextual-multimodal-fusion/data/"
)
_CITE_MHAD = "research, cite the paper (Chen, Jafari & Kehtarnavaz 2015); no licence file"
_CITE_NYU = "research, cite the paper (Silberman et al. 2012); no licence file"
_CITE_IMDB = "research, cite the paper (Arevalo et al. 2017); no licence file"
_EPIC = "CC BY-NC 4.0 (Damen et al. 2022)"
_XNORM = _RAW + "ihp-lab/XNorm/e80f660c9448bb70067ac039c43decb09632684f/dataset/epic_kitchens/"
_NYU_META = (
    "https://raw.githubusercontent.com/ankurhanda/nyuv2-meta-data/"
    "b92d15c506876dada1ac4086938e30ebc4deb49b/"
)
_CITE_MOSI = "research, cite the papers (Zadeh et al. 2016, Poria et al. 2017); repository MIT"


def _mosi(path: str, sha256: str) -> Entry:
    name = Path(path).name
    return Entry("mosi", f"upstream/mosi/{name}", _MOSI + path, _CITE_MOSI, None, sha256)


def _nyu(name: str, url: str, size: int | None, sha256: str | None = None) -> Entry:
    return Entry("nyuv2", f"upstream/nyuv2/{name}", url, _CITE_NYU, size, sha256)


def _kannada(name: str, size: int | None, sha256: str) -> Entry:
    return Entry("kannada", f"upstream/kannada/{name}", _KANNADA + name, _CITE, size, sha256)


_ENTRIES = (
    Entry("hoda", "digits/hoda.npz", "", _NON_COMMERCIAL, 7466425,
          "ffc5e7e138a74672477b8a14e2fcfbe4d3c7120eb64a0635197259306c3b782a"),
    Entry("hoda", "upstream/hoda/Data_hoda_full.mat", _HODA_TRAIN, _NON_COMMERCIAL, 3989009,
          "39629eb751892b39fc5d1e987b472d441e4dffcbe8218931b73f466d8b2f3ce2"),
    Entry("hoda", "upstream/hoda/Test 20000.cdb", _HODA_TEST, _NON_COMMERCIAL, 2184440,
          "f947c38071c886677ec212fe5000863fafae0b4ed349d97d51c33abe3c8e2b07"),
    Entry("kannada", "digits/kannada.npz", "", _CITE, 8286845,
          "bc0782c68bec89cf387c0e413b54fcba0f7722effe5cbe985e5df3bcc726ba31"),
    _kannada("X_kannada_MNIST_train.npy", 47040128,
             "daa65a1f43486ae746e142753489e8afeb07bb5dc9e3ef464e79f961c82c6ef0"),
    _kannada("y_kannada_MNIST_train-idx1-ubyte.gz", None,
             "ef11e1d3e378fefbe78d4c9913dc9617c83fc5f9240b090121fcc335b5642201"),
    _kannada("X_kannada_MNIST_test-idx3-ubyte.gz", 1120203,
             "4628f3fa7b1d32137449dd356be4601da0c28c420b79f1b745a5134504ca35ca"),
    _kannada("y_kannada_MNIST_test-idx1-ubyte.gz", 103,
             "645db5902d290681c9e5b452428e24636963a50a3036c2201240351b88786272"),
    Entry("fsdd", "digits/fsdd.npz", "", _SHARE_ALIKE, 15388739,
          "ac4092a5eeba938977a4c764ea4dd6937e509b0ddb90a7d30d80e32989f44719"),
    Entry("fsdd", f"{FSDD_FOLDER}/free-spoken-digit-dataset.tar.gz", _FSDD, _SHARE_ALIKE, 21128848, None),
    Entry("ravdess", "ravdess/ravdess.npz", "", _RAVDESS, 4568107,
          "57ea908b4f39df961228340bc1029af026ecc10f231b434c63935180313cc8c4"),
    Entry("ravdess", f"{RAVDESS_FOLDER}/Actor_*", "https://zenodo.org/record/1188976", _RAVDESS,
          590349330, None),
    Entry("ravdess", f"{RAVDESS_FOLDER}/df_average_AUs_total.csv", _AUS, _RAVDESS, 892183,
          "c24faeb4069a8b5c4aad3a674763c98a76ffa2ac3457e0d4fd5bce2ffaef8d96"),
    Entry("mosi", "mosi/mosi.npz", "", _CITE_MOSI, 1662682,
          "f6593a22a9947908dbc01d161c06483a4c53236e3ed2ff18834190e78419e083"),
    _mosi("text/text_train0.csv", "cc327045db6cc361a08b4037b97bb24de4ddb5efb381468c4835cc4a60674668"),
    _mosi("text/text_test0.csv", "a343e22272919d1384c2075dbcdd5fef5aa9f9366b0552a83f7c3147b64b047a"),
    _mosi("audio/audio_train0.csv", "5435398a54664e7b00304587dc59ae84a438852be033c2a2fba779588624a2a1"),
    _mosi("audio/audio_test0.csv", "ddd17eeefd3d951d51d4e2ef8a0d132652d8161e1886f71eb7262b7a14bffff6"),
    _mosi("video/video_train0.csv", "b6efc0413132d627efd06f67f1706830e775e90af9a75696f535c48dbc73f12f"),
    _mosi("video/video_test0.csv", "cab836253d81100f59d533fa2ff65cd53c486be3ec9fd82203c5e25a7a77265f"),
    _mosi("text_train.csv", "73770b6302ad0f7a51f4eddcae6788efde4d0b6802e09f78249d5b538d1c1d67"),
    _mosi("text_test.csv", "f3b735070bf07ceff7a6ef6c8f4c32757e988de484e35bd6d38b2aecef851a59"),
    _mosi("transcripts.csv", "e7689e6d70720addd2a6b316419d245a68839c32b014ff426c406063ee777466"),
    Entry("utd_mhad", "utd_mhad/utd_mhad.npz", "", _CITE_MHAD, 8193136,
          "0e4374b9a3e46017b3bd814375d6d4b7844051d08f7cd15b13ccb686dd6f37c7"),
    Entry("utd_mhad", f"{UTD_MHAD_FOLDER}/a*_s*_t*_*.mat",
          "https://personal.utdallas.edu/~kehtar/UTD-MHAD.html", _CITE_MHAD, 171796109, None),
    Entry("nyuv2", "nyuv2/nyuv2.npz", "", _CITE_NYU, 11466767,
          "6552b38f9c7f2d983e70441a80b2d57e23b2e3ca0c8826ba1d234b357060d088"),
    _nyu("nyu_depth_v2_labeled.mat",
         "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat", 2972037809),
    _nyu("splits.mat", _NYU_META + "splits.mat", 2626,
         "6e081404491a8bfba2f066beaa9713ef6046f9007aa5f799f2a350506a580cee"),
    _nyu("class13Mapping.mat", _NYU_META + "class13Mapping.mat", None,
         "4e79ab24c345896c19abc62476b2c3520f3e2db00f71f868c5027208af48a3de"),
    _nyu("labels40.mat", _NYU_META + "labels40.mat", 14539282),
    Entry("mmimdb", "upstream/mmimdb/multimodal_imdb.hdf5",
          "http://lisi1.unal.edu.co/mmimdb/multimodal_imdb.hdf5", _CITE_IMDB, None, None),
    *(Entry("epic", f"upstream/epic/{split}.csv", f"{_XNORM}{split}.csv", _EPIC, None, None)
      for split in ("train", "val", "test")),
    *(Entry("epic", f"upstream/epic/{kitchen}/",
            "https://github.com/epic-kitchens/epic-kitchens-download-scripts", _EPIC, None, None)
      for kitchen in ("P01", "P08", "P22")),
)  # fmt: skip


def roots() -> list[Path]:
    """Folders in which data is looked for, the first one first."""
    chosen = os.environ.get("LABKIT_DATA")
    return ([Path(chosen).expanduser()] if chosen else []) + [cache_dir() / "data"]


def catalogue() -> list[Entry]:
    """All files of all data sets: packs (no address) and originals. `entry.local` says what is here."""
    return list(_ENTRIES)


def entry(file: str) -> Entry:
    """The catalogue's entry of a file: "digits/hoda.npz", or its last part, "hoda.npz"."""
    return next(known for known in _ENTRIES if file in (known.file, Path(known.file).name))


def pack(dataset: str) -> Path | None:
    """The verified pack of a data set, or None if it is not here.

    Raises:
        LabkitError: if it is here but is not the file it should be.
    """
    packed = next((item for item in _ENTRIES if item.dataset == dataset and not item.url), None)
    return None if packed is None or packed.local is None else verified(packed, packed.local)


def need(wanted: Entry) -> Path:
    """The file on this machine, verified; downloaded into the cache if it is nowhere.

    Raises:
        LabkitError: if it cannot be downloaded, or is not the file it should be.
    """
    return download(wanted) if wanted.local is None else verified(wanted, wanted.local)


def get(dataset: str) -> list[Path]:
    """Make sure that a data set is here: its pack, or else its originals, downloaded if necessary.

    Args:
        dataset: One of `DATASETS`.

    Returns:
        The files, all verified.

    Raises:
        ValueError: on an unknown data set.
        LabkitError: if a file cannot be had, or is not what it should be.
    """
    packed = pack(_known(dataset))
    return (
        [packed]
        if packed
        else [need(item) for item in _ENTRIES if item.dataset == dataset and item.url]
    )


def check(dataset: str | None = None) -> list[str]:
    """Hash again what is here of a data set.

    Args:
        dataset: One of `DATASETS`; None = all of them that are here.

    Returns:
        One sentence a problem; empty if all that is here is right. A file that is not here is no
        problem, unless nothing is: nothing of `dataset`, or with None nothing at all.

    Raises:
        ValueError: on an unknown data set.
    """
    if dataset is None:
        found = [problems for name in DATASETS if (problems := _problems(name)) is not None]
        if not found:
            return [
                "nothing is here: `labkit data list` names what there is, `labkit data get` fetches it"
            ]
        return [problem for problems in found for problem in problems]
    problems = _problems(_known(dataset))
    if problems is None:
        return [f"nothing of {dataset} is here: run `labkit data get {dataset}`"]
    return problems


def _problems(dataset: str) -> list[str] | None:
    """What is wrong with the files of a data set that are here; None if there are none."""
    problems, here = [], 0
    for item in _ENTRIES:
        if item.dataset == dataset and item.local is not None:
            here += 1
            try:
                verified(item, item.local)
            except LabkitError as error:
                problems.append(str(error))
    if dataset == "fsdd":
        for root in roots():
            folder = root / FSDD_FOLDER
            if folder.is_dir() and _other_recordings(folder) is None:  # some samples, not the whole
                problems += [f"{folder}: {problem}" for problem in _wrong_recordings(folder)]
    return problems if here or problems else None


def _known(dataset: str) -> str:
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; got {dataset!r}")
    return dataset


# Verification --------------------------------------------------------------------------------------


def verified(wanted: Entry, path: Path) -> Path:
    """Return `path` if it holds what the catalogue says.

    Raises:
        LabkitError: if not; the message has both hashes.
    """
    if wanted.dataset in (*_BY_NAME, *BY_HAND) and wanted.sha256 is None:
        return path  # there are no hashes to compare with; names of recordings were counted
    if wanted.sha256 is None:
        wrong = list(_wrong_recordings(path, whole=True))
        if wrong:
            more = f" (and {len(wrong) - 1} more problems)" if len(wrong) > 1 else ""
            raise LabkitError(f"{path} is not {wanted}: {wrong[0]}{more}. {_again(path)}")
        return path
    found = sha256_of(path)
    if found != wanted.sha256:
        raise LabkitError(
            f"{path} is not {wanted}: its sha256 is {found}, expected {wanted.sha256}. {_again(path)}"
        )
    return path


def _again(path: Path) -> str:
    return f"Delete {path.name} and get it again with `labkit data get`."


@lru_cache(maxsize=1)
def registry() -> dict[str, str]:
    """Hash of each of the 3,000 recordings of FSDD: file name -> sha256."""
    lines = resources.files("labkit.data").joinpath("fsdd.txt").read_text("utf-8").splitlines()
    return {Path(path).name: digest for digest, path in (line.split("  ") for line in lines)}


def _wrong_recordings(path: Path, whole: bool = False) -> Iterator[str]:
    """What is wrong with the recordings in a folder or archive; `whole`: all 3,000 have to be there."""
    known, seen = registry(), set()
    for name, content in formats.recordings(path):
        seen.add(name)
        if name not in known:
            yield f"{name} is no recording of this release"
        elif hashlib.sha256(content).hexdigest() != known[name]:
            yield f"{name} has another sha256 than the release's"
    missing = sorted(set(known) - seen)
    if whole and missing:
        yield f"{len(missing)} of {len(known)} recordings are missing, {missing[0]} for one"


def _other_recordings(folder: Path) -> Path | None:
    """FSDD in a form other than the archive labkit downloads: another archive, or its wavs."""
    if not folder.is_dir():
        return None
    for pattern in ("*.tar.gz", "*.tgz", "*.zip"):
        for archive in sorted(folder.glob(pattern)):
            return archive
    here = sum(1 for path in folder.rglob("*.wav") if formats.RECORDING.fullmatch(path.name))
    return folder if here >= len(registry()) else None


def _clips(root: Path) -> Path | None:
    """The folder of RAVDESS's spoken clips, if they are all in it."""
    folder = root / RAVDESS_FOLDER
    names = {path.name for path in folder.rglob("03-01-*.wav")} if folder.is_dir() else set()
    return folder if len(names) >= CLIPS else None


def _performances(root: Path) -> Path | None:
    """The folder of UTD-MHAD's clips, if all files of all performances are in it."""
    folder = root / UTD_MHAD_FOLDER
    names = {path.name for path in folder.rglob("a*_s*_t*_*.mat")} if folder.is_dir() else set()
    return folder if len(names) >= 3 * PERFORMANCES else None


# What has no hashes: how it is found below a data folder, and what to do where it is not.
_BY_NAME: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "ravdess": (_clips, "Unpack Audio_Speech_Actors_01-24.zip (208.5 MB) of"),
    "utd_mhad": (
        _performances,
        "Unpack the inertial, skeleton and depth data (861 .mat files each) of",
    ),
}


# Single files and folders without a published hash, and what more there is to say of how to get them.
BY_HAND = {
    "nyuv2": "",
    "mmimdb": "",
    "epic": "Frames come with the authors' epic_downloader.py (--rgb-frames --flow-frames --participants "
    "P01,P08,P22), a .tar a video: unpack P01/rgb_frames/P01_01.tar into a folder P01/rgb_frames/P01_01, "
    "P01/flow_frames/P01_01.tar, which holds u and v, into P01/flow_frames/P01_01, and so on; train.csv, "
    "val.csv and test.csv lie beside P01.",
}


# Download ------------------------------------------------------------------------------------------


def download(wanted: Entry) -> Path:
    """Fetch a file from its authors into labkit's cache; kept only if it is the right one.

    Raises:
        LabkitError: without network (the message says what to put where by hand), or if what came is
            not the file it should be (it is not kept).
    """
    place = cache_dir() / "data" / wanted.file
    if not wanted.url:
        raise LabkitError(
            f"{wanted} is a pack, published nowhere: put it at {place}, or use the originals"
        )
    if wanted.dataset in BY_HAND and wanted.sha256 is None:
        more = f" {BY_HAND[wanted.dataset]}" if BY_HAND[wanted.dataset] else ""
        raise LabkitError(
            f"{wanted} is not in {' and '.join(map(str, roots()))}, and is not fetched, for nobody has "
            f"published its hash: get it from {wanted.url} and put it at {place}, or set LABKIT_DATA to the "
            f"folder that holds {wanted.file}.{more} Notebooks run without it with source='procedural'."
        )
    if wanted.dataset in _BY_NAME and wanted.sha256 is None:
        packed = next(
            item.file for item in _ENTRIES if item.dataset == wanted.dataset and not item.url
        )
        raise LabkitError(
            f"{wanted} are not in {' and '.join(map(str, roots()))}, and are not fetched, for nobody has "
            f"published their hashes. {_BY_NAME[wanted.dataset][1]} {wanted.url} into {place.parent}, or "
            f"set LABKIT_DATA to the folder that holds {wanted.file} or the pack {packed}. Notebooks "
            f"run without it with source='procedural'."
        )
    import pooch  # 0.2 s, and only a download needs it

    waiting = cache_dir() / "data" / f".download-{secrets.token_hex(4)}"
    pooch.get_logger().setLevel("WARNING")  # else it prints a hash to copy into one's code
    # Not streamed: pooch does not close the connection of a stream that ends in an error.
    http = pooch.HTTPDownloader(timeout=60, stream=False)
    try:
        fetched = Path(pooch.retrieve(wanted.url, None, place.name, waiting, downloader=http))
        try:
            verified(wanted, fetched)
        except LabkitError as error:
            raise LabkitError(
                f"What {wanted.url} sent is not {wanted}, and was not kept: {error} If it comes again, the "
                f"release has changed or a proxy is in the way; get the file elsewhere and put it at {place}."
            ) from error
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, place)
    except OSError as error:  # requests' errors are OSErrors too
        looked = " and ".join(str(root) for root in roots())
        raise LabkitError(
            f"{wanted} is not in {looked}, and could not be fetched from {wanted.url} "
            f"({type(error).__name__}: {error}). Download it where there is a network and put it at {place}, "
            f"or set LABKIT_DATA to the folder that holds {wanted.file}. Notebooks run "
            f"without it with source='procedural'."
        ) from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
    return place
