"""--require: what a run must reach, so that a bag is a regression test."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from dap_led_ros.replay import measures, page

FAILED = 3
"""Exit status of a run that misses a requirement."""
_OPERATORS = {'>=': operator.ge, '<=': operator.le, '>': operator.gt, '<': operator.lt}
_SHARES = ('helped', 'unchanged', 'harmed')
NAMES = (*_SHARES, *(name for name in measures.PER_PAIR if name not in ('help', 'harm')))
NAMES += tuple(measures.PER_FRAME)


@dataclass(frozen=True)
class Requirement:
    """One condition, which every camera must meet."""

    text: str
    name: str
    operator: str
    value: float
    times: bool
    """The value is a multiple of what the measure was before enhancement."""

    def missed(self, camera: dict[str, Any]) -> str:
        """Why a camera of report.json misses it; empty: it does not."""
        value = self._value(camera)
        if value is None:
            return 'it was not measured'
        if _OPERATORS[self.operator](value, self.value):
            return ''
        return f'it is {page.figure(value)}{"x" if self.times else ""}'

    def _value(self, camera: dict[str, Any]) -> float | None:
        """A share, a mean or a median, in the units of the report."""
        if self.name in _SHARES:
            return camera['verdict'].get(self.name, {}).get('share')
        found = camera['measures'].get(self.name, {})
        if self.times:
            before, after = found.get('before'), found.get('after')
            return None if not before or after is None else after / before
        return found.get('after', found.get('median'))


def parse(text: str) -> Requirement:
    """A condition such as inliers>=1.2x, harmed<=2% or latency<50.

    :raises ValueError: it is none.
    """
    found = re.fullmatch(r'\s*(\w+)\s*(>=|<=|>|<)\s*(\d+(?:\.\d*)?|\.\d+)\s*(x|%)?\s*', text)
    if not found:
        raise ValueError(f"{text} is no requirement: write inliers>=1.2x or 'harmed<=2%'")
    name, sign, value, unit = found.groups()
    if name not in NAMES:
        raise ValueError(f'{text}: {name} is not measured; use one of {", ".join(NAMES)}')
    if unit == 'x' and name not in measures.PER_FRAME:
        raise ValueError(f'{text}: {name} has no value before enhancement to be a multiple of')
    if unit == '%' and name not in _SHARES and measures.of(name).unit != '%':
        raise ValueError(
            f'{text}: {name} is not in %, but in {measures.of(name).unit or "no unit"}'
        )
    return Requirement(text.strip(), name, sign, float(value), unit == 'x')


def missed(content: dict[str, Any], required: list[Requirement]) -> list[str]:
    """One line for each camera and requirement that it misses.

    :param content: of report.json.
    """
    lines = []
    for requirement in required:
        for topic, camera in content['topics'].items():
            if why := requirement.missed(camera):
                lines.append(f'required {requirement.text} on {topic}: {why}')
        if not content['topics']:
            lines.append(f'required {requirement.text}: no camera was enhanced')
    return lines
