"""The study behind notebook 01: what an MVAE knows when modalities are missing.

`plan` says what is trained and trains it (once: the store keeps it), `measure` asks the trained models
one question a function, `reading` turns the answers into tables and into what the figures are drawn
from, `claims` puts the poster's sentences to the test.
"""
