"""Train a network on night-blur pairs: python -m dap_led_training.train CONFIG --out RUN.

Writes to RUN: config.yaml, progress.csv, checkpoint.pt (to resume) and NETWORK.safetensors (the
averaged weights). Started again with the same arguments it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dap_led_ros.models.nano import PRESETS, Nano
from dap_led_training import configuration, losses
from dap_led_training.data.photographs import NightBlurBatches, Stage, find_photographs
from dap_led_training.degradation.night_blur import NightBlurConfig


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms in losses.py."""

    charbonnier: float = 1.0
    gradient: float = 0.0
    dissimilarity: float = 0.0
    grid: float = 0.0
    gate: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """A recipe; see configs/nano.yaml."""

    network: str
    photographs: list[str]
    stages: list[Stage]
    seed: int = 1
    learning_rate: float = 8e-4
    warmup_steps: int = 300
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    losses: LossWeights = field(default_factory=LossWeights)
    night_blur: NightBlurConfig = field(default_factory=NightBlurConfig)
    workers: int = 2
    checkpoint_every: int = 500
    only: str = ''
    """Train only the parameters whose names begin so, and leave the others as they are."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog='dap_led_training.train', description=__doc__)
    parser.add_argument('config', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='folder of the run')
    parser.add_argument(
        '--initial', type=Path, help='begin with these weights (.safetensors), to fine-tune'
    )
    parser.add_argument('--photographs', nargs='+', help="folders in place of the config's")
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, TrainConfig)
    if options.photographs:
        config = dataclasses.replace(config, photographs=options.photographs)
    train(config, options.out, options.initial)


def train(config: TrainConfig, out: Path, initial: Path | None = None) -> Path:
    """Train (or resume) a run; returns the path of the averaged weights.

    :param initial: weights of the same network to begin with; parts that they lack begin anew.
    """
    if config.network not in PRESETS:
        raise ValueError(f'no network {config.network!r}: use one of {", ".join(PRESETS)}')
    out.mkdir(parents=True, exist_ok=True)
    _write_config(out / 'config.yaml', config)
    torch.manual_seed(config.seed)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = Nano(PRESETS[config.network])
    if initial:
        missing, unknown = network.load_state_dict(load_file(initial), strict=False)
        print(f'beginning with {initial}; anew: {missing or "-"}; left out: {unknown or "-"}')
    network = network.to(device, memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(config.only))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        config.learning_rate,
        weight_decay=config.weight_decay,
    )
    batches = NightBlurBatches(
        find_photographs(config.photographs, validation=False),
        config.stages,
        config.night_blur,
        config.seed,
    )
    total = len(batches)
    checkpoint, weights = out / 'checkpoint.pt', out / f'{config.network}.safetensors'
    first = _resume(checkpoint, network, average, optimizer, device)
    loader = DataLoader(
        Subset(batches, range(first, total)),
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    started = time.monotonic()
    running: dict[str, float] = {}
    progress = tqdm(loader, initial=first, total=total, unit='step', mininterval=5)
    for step, (degraded, target) in enumerate(progress, start=first):
        rate = _learning_rate(step, total, config)
        for group in optimizer.param_groups:
            group['lr'] = rate
        degraded, target = _to_network(degraded, device), _to_network(target, device)
        with torch.autocast(device, torch.bfloat16):
            enhanced, gate = network.enhance_and_gate(degraded)
        # Three channels pool faster on a CPU when each is a plane of its own.
        planes = [frames.float().contiguous() for frames in (degraded, enhanced, target)]
        terms = _terms(*planes, gate.float(), config.losses)
        loss = sum(terms.values())
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f'the loss is {loss.item()} at step {step}; what {out} holds is from before'
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        for name, value in terms.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        progress.set_postfix({k: f'{v:.4f}' for k, v in running.items()}, refresh=False)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
            _save(checkpoint, weights, network, average, optimizer, step + 1)
            _log(out / 'progress.csv', step + 1, time.monotonic() - started, rate, running)
    return weights


def _terms(
    degraded: Tensor, enhanced: Tensor, target: Tensor, gate: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Weighted loss terms; a term of weight zero is not computed."""
    terms = {
        name: weight * getattr(losses, name)(enhanced, target)
        for name, weight in dataclasses.asdict(weights).items()
        if weight and name != 'gate'
    }
    if weights.gate:
        terms['gate'] = weights.gate * losses.gate(gate, degraded, target)
    return terms


def _to_network(frames: Tensor, device: str) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1]; channels_last in memory already."""
    return frames.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def _learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / total))


def _save(
    checkpoint: Path,
    weights: Path,
    network: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write each file whole or not at all."""
    state = {
        'network': network.state_dict(),
        'average': average.state_dict(),
        'optimizer': optimizer.state_dict(),
        'step': step,
    }
    torch.save(state, checkpoint.with_suffix('.part'))
    os.replace(checkpoint.with_suffix('.part'), checkpoint)
    tensors = {k: v.contiguous().cpu() for k, v in average.module.state_dict().items()}
    save_file(tensors, weights.with_suffix('.part'))
    os.replace(weights.with_suffix('.part'), weights)


def _resume(
    checkpoint: Path,
    network: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> int:
    """Load a checkpoint where there is one; returns the number of the next step."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    network.load_state_dict(state['network'])
    average.load_state_dict(state['average'])
    optimizer.load_state_dict(state['optimizer'])
    print(f'resuming {checkpoint} at step {state["step"]}')
    return state['step']


def _log(path: Path, step: int, seconds: float, rate: float, running: dict[str, float]) -> None:
    row = {'step': step, 'seconds': round(seconds), 'learning_rate': rate, **running}
    new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _write_config(path: Path, config: TrainConfig) -> None:
    """Keep the configuration beside its run; say so where a run goes on with another one."""
    text = yaml.safe_dump(_plain(config), sort_keys=False)
    if path.exists() and path.read_text() != text:
        print(f'the configuration is not the one of {path}: going on with the new one')
    path.write_text(text)


def _plain(config: TrainConfig) -> dict:
    """Dataclasses to what YAML knows: tuples become lists."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


if __name__ == '__main__':
    main()
