"""Live views: labs that answer at the speed of the hand."""

from labkit.live.bring import Probe as Probe
from labkit.live.bring import probe as probe
