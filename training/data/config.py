"""What a network is trained on, as a recipe says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dap_led_training.data import pairs
from dap_led_training.data.batches import PairSource
from dap_led_training.data.pairs import PairedFrames
from dap_led_training.data.photographs import NightBlurPairs, find_photographs
from dap_led_training.night.night_blur import NightBlurConfig


@dataclass(frozen=True)
class DataConfig:
    """One of three: photographs, or lol_blur, or degraded and target.

    :raises ValueError: none of them or more than one, or a variant that LOL-Blur does not have.
    """

    photographs: list[str] = field(default_factory=list)
    """Folders of sharp photographs; the night is made from them on the fly."""
    lol_blur: str = ''
    """LOL-Blur as downloaded, or what `make lol_blur` wrote."""
    variant: str = pairs.VARIANTS[0]
    """Which folder of LOL-Blur is the degraded one."""
    degraded: str = ''
    target: str = ''
    """Two folders with pictures of the same names."""

    def __post_init__(self) -> None:
        given = [bool(self.photographs), bool(self.lol_blur), bool(self.degraded or self.target)]
        if sum(given) != 1 or bool(self.degraded) != bool(self.target):
            raise ValueError(
                'data: give either photographs: [FOLDER], or lol_blur: FOLDER, '
                'or degraded: FOLDER and target: FOLDER'
            )
        if self.variant not in pairs.VARIANTS:
            raise ValueError(
                f'data: no variant {self.variant!r} of LOL-Blur: '
                f'use one of {", ".join(pairs.VARIANTS)}'
            )


def source(data: DataConfig, night_blur: NightBlurConfig, validation: bool = False) -> PairSource:
    """Pairs to train on, or to validate on; prints one line that says which.

    :param night_blur: the synthesis, for photographs.
    :param validation: every eighth photograph, or the test split of LOL-Blur.
    :raises FileNotFoundError: a folder is missing or has no picture.
    :raises ValueError: what is there does not pair, or two folders are to be validated on.
    """
    purpose = 'validating' if validation else 'training'
    if data.photographs:
        paths = find_photographs(data.photographs, validation)
        names = ', '.join(data.photographs)
        print(
            f'{purpose} on night blur made from {len(paths)} photographs of {names} -> '
            'the photographs'
        )
        return NightBlurPairs(paths, night_blur)
    if data.lol_blur:
        split = 'test' if validation else 'train'
        found = pairs.lol_blur(data.lol_blur, split, data.variant)
        folder = pairs.split_folder(data.lol_blur, split)
        degraded, target, group = folder / data.variant, folder / pairs.TARGET, 'clips'
    elif validation:
        raise ValueError('two folders have no part to validate on: photographs and LOL-Blur have')
    else:
        found = pairs.folders(data.degraded, data.target)
        degraded, target, group = Path(data.degraded), Path(data.target), 'folders'
    count = len({pair.video for pair in found})
    print(f'{purpose} on {degraded} -> {target}: {len(found)} pairs in {count} {group}')
    return PairedFrames(found)
