"""What a replay is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReplayOptions:
    """One bag and what to do with it; docs/bags.md says more of each option."""

    bag: Path
    out: Path
    """Folder for the bag, the video and the report."""
    topics: tuple[str, ...] = ()
    """Image topics to enhance; none: all of colour or grey."""
    model: str = 'nano'
    device: str = 'auto'
    detect: str | None = None
    """Weights of a YOLO."""
    allow_pickle: bool = False
    """Open .pt weights of a YOLO, which may execute anything."""
    references: tuple[str, ...] = ()
    """TOPIC or CAMERA=TOPIC with what a perfect camera would have seen."""
    features: bool = True
    odometry: bool = False
    iqa: bool = True
    """Measure what needs no reference: NIQE, MUSIQ, NRQM."""
    video: bool = True
    storage: str | None = None
    """mcap or sqlite3; None: as the bag."""
    humble: bool = False
    """Write a bag that ROS 2 Humble and Iron can read."""
    require: tuple[str, ...] = ()
    """Conditions that every camera has to meet."""
    resume: bool = False
    """Go on with a run that was interrupted."""
