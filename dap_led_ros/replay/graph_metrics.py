"""What a ROS graph adds to frames, in the metric names and definitions of ros2_benchmark."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def graph_metrics(sent: Mapping[object, float], received: Mapping[object, float]) -> dict:
    """Rates, latencies and jitter of frames that went through a graph.

    :param sent: when each frame was published, seconds of a steady clock, in that order.
    :param received: when it came back, by the same keys, in the order of arrival.
    :returns: value by name; what cannot be computed of so few frames is not there. Jitter is the
        absolute difference between successive distances of arrivals.
    """
    metrics: dict[str, float] = {
        '# of Frames Sent': len(sent),
        '# of Missed Frames': len(sent) - len(received),
    }
    out, back = (1e3 * np.array(list(times.values())) for times in (sent, received))
    if len(out) > 1 and out[-1] > out[0]:
        metrics['Mean Playback Frame Rate (fps)'] = 1e3 * len(out) / (out[-1] - out[0])
    if len(back) > 1 and back[-1] > back[0]:
        metrics['Delta between First & Last Received Frames (ms)'] = back[-1] - back[0]
        metrics['Mean Frame Rate (fps)'] = 1e3 * len(back) / (back[-1] - back[0])
    latencies = np.array([1e3 * (received[key] - sent[key]) for key in sent if key in received])
    if len(latencies):
        metrics['Mean End-to-End Latency (ms)'] = latencies.mean()
        metrics['Min. End-to-End Latency (ms)'] = latencies.min()
        metrics['Max. End-to-End Latency (ms)'] = latencies.max()
    jitter = np.abs(np.diff(back, 2))
    if len(jitter):
        metrics['Mean Frame-to-Frame Jitter (ms)'] = jitter.mean()
        metrics['Max. Frame-to-Frame Jitter (ms)'] = jitter.max()
        metrics['Frame-to-Frame Jitter Std. Deviation (ms)'] = jitter.std()
    return {name: float(value) for name, value in metrics.items()}
