"""The training loop that every recipe shares, on Lightning Fabric.

A recipe is a module that maps a batch to its loss terms, a dict of scalars, and that holds what is
trained in `network`. Batches are numbered: batch `step` is a function of (seed, step), so that a
run that was killed goes on with what an unbroken one would have seen, to the same weights.

    python -m dap_led_training train RECIPE --out RUN              one process
    torchrun --nproc-per-node 4 -m dap_led_training train ...      one process per device
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from dap_led_training import configuration

OPTIMIZERS = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}
SCHEDULES = ('constant', 'cosine')
PRECISIONS = ('auto', '32-true', 'bf16-mixed')
WEIGHTS = 'weights.safetensors'
_ALIVE, _DEAD_AFTER = 0.01, 4
"""A vital figure below this, so many times in a row, is that of a dead network."""
MACHINE_SETTINGS = ('workers', 'checkpoint_every', 'precision')


@dataclass(frozen=True)
class LoopConfig:
    """How to optimize; the defaults are the paper's where it says (DAP-LED section IV-A)."""

    seed: int = 1
    optimizer: str = 'adam'
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam and AdamW; 0.5 for the first is usual for adversarial losses."""
    learning_rate: float = 1e-4
    schedule: str = 'constant'
    """constant, or cosine: from learning_rate down to final_learning_rate."""
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_gradient: float = 1.0
    ema_decay: float = 0.999
    precision: str = 'auto'
    """auto: bf16 where the hardware multiplies it, else fp32."""
    workers: int = 2
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        """Refuse values that no branch knows.

        :raises ValueError: optimizer, schedule or precision is none of those known.
        """
        for name, known in (
            ('optimizer', OPTIMIZERS),
            ('schedule', SCHEDULES),
            ('precision', PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f'{name}: {getattr(self, name)!r} is not one of {tuple(known)}')


def start(config: LoopConfig, out: Path) -> Fabric:
    """Set up devices, precision and loggers; under torchrun one process of many."""
    # Loader workers run side by side. Set before they fork: OpenCV's threads do not survive that.
    cv2.setNumThreads(1)
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    loggers: list[Any] = [
        CSVLogger(out, name='logs', version=_stamp(), flush_logs_every_n_steps=1)
    ]
    if _installed('tensorboard'):
        loggers.append(TensorBoardLogger(out, name='tensorboard', version=''))
    fabric = Fabric(
        accelerator='auto',
        devices=int(os.environ.get('LOCAL_WORLD_SIZE', 1)),
        num_nodes=max(1, world_size // int(os.environ.get('LOCAL_WORLD_SIZE', 1))),
        strategy='ddp' if world_size > 1 else 'auto',
        precision=precision_of(config.precision),
        loggers=loggers,
    )
    fabric.launch()
    seed_everything(config.seed, verbose=False)
    return fabric


def start_alone(config: LoopConfig, out: Path) -> Fabric:
    """start() for recipes whose loss needs the whole batch in one process.

    :raises RuntimeError: there are several processes.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        raise RuntimeError('this recipe runs in one process: start it without torchrun')
    return start(config, out)


def fit(
    fabric: Fabric,
    recipe: nn.Module,
    batches: Dataset,
    config: LoopConfig,
    out: Path,
    write: Callable[[nn.Module, Path], None],
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    vital: str = '',
) -> None:
    """Train to the end, from the run's checkpoint where there is one.

    :param recipe: forward(*batch) -> dict of loss terms; recipe.network is what is trained.
    :param batches: item `step` is the batch of this process: a tuple of tensors.
    :param write: writes the averaged network to a path; the loop puts it in place.
    :param validate: figures of the averaged network, which are logged at each checkpoint.
    :param vital: how the names of figures begin that are 0 for a network that does nothing.
    :raises FloatingPointError: the loss is not finite, or all vital figures stay at 0: the network
        has died.
    """
    average = AveragedModel(recipe.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    average.to(fabric.device)
    optimizer = OPTIMIZERS[config.optimizer](
        _parameter_groups(recipe, config.weight_decay),
        lr=config.learning_rate,
        betas=config.betas,
    )
    wrapped, optimizer = fabric.setup(recipe, optimizer)
    total, checkpoint = len(batches), out / 'checkpoint.pt'
    state: dict[str, Any] = {
        'recipe': wrapped,
        'average': average,
        'optimizer': optimizer,
        'step': 0,
        'running': {},
    }
    if checkpoint.exists():
        fabric.load(checkpoint, state)
        fabric.print(f'resuming {checkpoint} at step {state["step"]} of {total}')
    first, running, dead = state['step'], state['running'], 0
    loader = fabric.setup_dataloaders(
        DataLoader(
            Subset(batches, range(first, total)),
            batch_size=None,
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
        ),
        use_distributed_sampler=False,  # the batches are this process' share already
    )
    began = time.monotonic()
    progress = tqdm(
        loader, initial=first, total=total, unit='step', mininterval=5, disable=fabric.global_rank
    )
    for step, batch in enumerate(progress, start=first):
        torch.manual_seed(config.seed + step)  # what a recipe draws is a function of the step too
        rate = learning_rate(step, total, config)
        for group in optimizer.param_groups:
            group['lr'] = rate
        terms = wrapped(*batch)
        loss = sum(terms.values())
        values = torch.stack([*terms.values(), loss]).detach()
        values = dict(zip([*terms, 'loss'], fabric.all_reduce(values, reduce_op='mean').tolist()))
        if not math.isfinite(values['loss']):
            raise FloatingPointError(
                f'the loss is {values["loss"]} at step {step}; what {out} holds is from before'
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if config.clip_gradient:
            fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip_gradient)
        optimizer.step()
        average.update_parameters(recipe.network)
        for name, value in values.items():
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        progress.set_postfix({k: f'{v:.4f}' for k, v in running.items()}, refresh=False)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == total:
            # The weights first: a run whose checkpoint is its last has nothing left to write.
            if fabric.is_global_zero:
                write_whole(out / WEIGHTS, lambda p: write(average.module, p))
            figures = validate(average.module) if validate and fabric.is_global_zero else {}
            if figures:
                progress.write(', '.join(f'{k} {v:.3f}' for k, v in figures.items()))
            alive = [abs(v) > _ALIVE for k, v in figures.items() if vital and k.startswith(vital)]
            dead = dead + 1 if alive and not any(alive) else 0
            state['step'] = step + 1
            _replace(fabric, checkpoint, lambda part: fabric.save(part, state))
            fabric.log_dict(
                {**running, **figures, 'learning_rate': rate, 'seconds': time.monotonic() - began},
                step=step + 1,
            )
            if dead == _DEAD_AFTER:
                raise FloatingPointError(
                    f'validation has equalled its input {_DEAD_AFTER} times: the network has '
                    'fallen back to the identity; begin again with a smaller learning_rate'
                )
    for logger in fabric.loggers:
        logger.finalize('success')


def learning_rate(step: int, total: int, config: LoopConfig) -> float:
    """Rate of a step: linear warm-up, then the schedule."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == 'constant':
        return config.learning_rate * warmup
    span = config.learning_rate - config.final_learning_rate
    cosine = 0.5 * (1 + math.cos(math.pi * step / total))
    return warmup * (config.final_learning_rate + span * cosine)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all, even if the process is killed."""
    part = path.with_name(f'{path.name}.part')
    write(part)
    part.chmod(0o644)  # safetensors writes files that only their owner may read
    os.replace(part, path)


def write_record(out: Path, config: Any, loop: LoopConfig, initial: Path | None = None) -> None:
    """Keep config.yaml and environment.json in the run's folder.

    :raises ValueError: the folder holds a run with another configuration; to resume it as it is,
        leave its settings as they are; only those of the machine may change.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, plain = out / 'config.yaml', as_plain(config)
    if path.exists() and (out / 'checkpoint.pt').exists():
        before = yaml.safe_load(path.read_text())
        with contextlib.suppress(ValueError):  # a key that has come since had its default
            before = as_plain(configuration.build(before, type(config), str(path)))
        changed = [
            key
            for key in sorted({*plain, *before})
            if _without_machine(plain.get(key)) != _without_machine(before.get(key))
        ]
        if changed:
            raise ValueError(
                f'{out} holds a run whose {", ".join(changed)} differ: give another --out, or '
                f'the configuration of {path}'
            )
    write_whole(path, lambda part: part.write_text(yaml.safe_dump(plain, sort_keys=False)))
    environment = {
        'seed': loop.seed,
        'initial': initial and str(initial),
        'git': _git('rev-parse', 'HEAD') + (' (modified)' if _git('status', '-s') else ''),
        'python': platform.python_version(),
        'machine': f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores',
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{
            name: metadata.version(name)
            for name in ('torch', 'lightning-fabric', 'numpy', 'open-clip-torch')
            if _installed(name)
        },
    }
    text = json.dumps(environment, indent=2)
    write_whole(out / 'environment.json', lambda part: part.write_text(text))


def as_plain(config: Any) -> dict:
    """Dataclasses to what YAML and JSON know: tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels only, not for gains, biases and embeddings."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.ndim >= 2 and 'embedding' not in n]
    plain = [p for n, p in trained if p.ndim < 2 or 'embedding' in n]
    return [
        {'params': decayed, 'weight_decay': weight_decay},
        {'params': plain, 'weight_decay': 0.0},
    ]


def precision_of(wanted: str) -> str:
    """What Fabric calls the precision that a recipe wants on this machine."""
    if wanted != 'auto':
        return wanted
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:  # without the instructions for it bf16 is a hundred times slower than fp32
        onednn = torch.backends.mkldnn.is_available()
        fast = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return 'bf16-mixed' if fast else '32-true'


def _replace(fabric: Fabric, path: Path, save: Callable[[Path], None]) -> None:
    """Save on all processes (Fabric asks for that), put the file in place on one."""
    part = path.with_name(f'{path.name}.part')
    save(part)
    fabric.barrier()
    if fabric.is_global_zero:
        os.replace(part, path)


def _without_machine(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if k not in MACHINE_SETTINGS}
    return value


def _stamp() -> str:
    """A name for the logs of this start; a resumed run begins a new one."""
    return f'{time.strftime("%Y%m%d-%H%M%S")}-{time.time_ns() // 10**6 % 1000:03d}'


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git(*arguments: str) -> str:
    """Output of git in the folder of this file; empty where there is no repository."""
    command = ['git', '-C', str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ''
