"""All settings are in pyproject.toml; this only lets `pip install -e .` install data files too."""

from setuptools import Distribution, setup


class WithData(Distribution):
    """Knows its data files by the name that setuptools' editable wheels ask for.

    They ask for ``has_data``, which setuptools (84.2 too) does not have, and leave the files out.
    """

    has_data = Distribution.has_data_files


setup(distclass=WithData)
