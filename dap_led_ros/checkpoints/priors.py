"""Build a prior from its configuration: find weights, embed prompts once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.inference import weights
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.clip import PROMPT_PAIRS, ClipPrior
from dap_led_ros.priors.controller import Controller, ControllerPrior
from dap_led_ros.priors.distilled import DistilledPrior
from dap_led_ros.priors.handcrafted import HandcraftedPrior, NoPrior

OPEN_CLIP_WEIGHTS = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')


def build_prior(config: PriorConfig, cached: dict[str, Tensor] | None = None) -> nn.Module:
    """A frozen prior in evaluation mode.

    :param cached: `texts`, `logit_scale` and `controller.*` of a checkpoint; without them the
        prompts are embedded now, which needs the text tower, and the controller is read.
    :raises FileNotFoundError: the CLIP's weights, the controller's, or learned prompts are not
        there; says which and where to put them.
    :raises RuntimeError: open_clip is not installed.
    :raises ValueError: the file of the controller or of the prompts is none, or of another CLIP.
    """
    if config.kind == 'none':
        return NoPrior()
    if config.kind == 'handcrafted':
        return HandcraftedPrior()
    if config.kind == 'distilled':
        prior = DistilledPrior()
        prior.load_state_dict(load_file(weights.PRIORS / 'degradation.safetensors'))
        return prior.eval().requires_grad_(False)
    clip = load_clip(config)
    if cached:
        texts, scale = cached['texts'], cached['logit_scale']
    else:
        texts, scale = embed_prompts(clip, PROMPT_PAIRS), clip.logit_scale.detach().exp()
    antonyms = config.prompts != 'joint'
    parts = (clip.visual, texts, float(scale), config.dense_mode, antonyms)
    if config.kind == 'controller':
        controller = Controller(clip.visual)
        _load_controller(controller, cached, config, ClipPrior(*parts).fingerprint)
        return ControllerPrior(*parts, controller=controller)
    prior = ClipPrior(*parts)
    if config.kind == 'learned' and not cached:
        prior.texts[0] = load_prompts(Path(config.prompts).expanduser(), prior)
    return prior


def save_prompts(path: Path, pair: Tensor, prior: ClipPrior, **more: Tensor) -> None:
    """Write a learned pair (2, D), degraded and clean, and what else to keep beside it."""
    tensors = {'pair': pair, **more}
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        path,
        metadata={'tower': str(prior.fingerprint)},
    )


def load_prompts(path: Path, prior: ClipPrior) -> Tensor:
    """The learned pair (2, D) of a file, for the image tower of a prior.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file holds no prompts, or those of another tower.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f'no learned prompts {path}: give the prompts.safetensors that '
            'a training of kind clip_lit wrote'
        )
    try:
        with safe_open(path, 'pt') as file:
            pair, tower = file.get_tensor('pair'), (file.metadata() or {}).get('tower')
    except SafetensorError as error:
        raise ValueError(f'{path} holds no learned prompts: {error}') from None
    if tower != str(prior.fingerprint):
        raise ValueError(f'{path} was learned with another CLIP than prior.clip names')
    return pair


def _load_controller(
    controller: Controller, cached: dict[str, Tensor] | None, config: PriorConfig, tower: int
) -> None:
    """The weights from a checkpoint or from the controller's own file; see build_prior()."""
    path, of = Path(config.controller).expanduser(), tower
    if cached:
        tensors = {k.removeprefix('controller.'): v for k, v in cached.items()}
        tensors = {k: tensors[k] for k in controller.state_dict()}
    elif not path.is_file():
        raise FileNotFoundError(
            f'prior.controller: no file {config.controller!r}: give the weights.safetensors that '
            'a training of kind da_clip wrote'
        )
    else:
        try:
            with safe_open(path, 'pt') as file:
                of = json.loads((file.metadata() or {})['dap_led_ros'])['controller of']
            tensors = load_file(path)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f'prior.controller: {path} holds no controller ({error})') from None
    if of != tower:
        raise ValueError(
            f'{path} controls another image tower than the one that is found as {config.clip!r}'
        )
    controller.load_state_dict(tensors)


def load_clip(config: PriorConfig) -> nn.Module:
    """A CLIP of open_clip's, both towers, in evaluation mode.

    :raises FileNotFoundError: its weights are not there; says which and where to put them.
    :raises RuntimeError: open_clip is not installed.
    :raises ValueError: open_clip knows no such model, or the weights are of another one.
    """
    try:
        import open_clip
    except ImportError as error:
        raise RuntimeError(
            f'the CLIP prior needs open_clip: pip install open_clip_torch torchvision ({error})'
        ) from None
    shipped = weights.PRIORS / config.clip
    folder = shipped if shipped.is_dir() else Path(config.clip).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in OPEN_CLIP_WEIGHTS):
            raise FileNotFoundError(
                f'{folder} has no weights: put {OPEN_CLIP_WEIGHTS[0]} beside open_clip_config.json'
            )
        return open_clip.create_model(f'local-dir:{folder}').float().eval()
    if config.clip not in open_clip.list_models():
        raise ValueError(
            f'no CLIP {config.clip!r}: give degradation-clip-tiny, a folder with '
            'open_clip_config.json, or a name of open_clip.list_models()'
        )
    source = Path(config.weights).expanduser()
    if source.is_file():
        try:
            return open_clip.create_model(config.clip, pretrained=str(source)).eval()
        except Exception as error:  # torch, pickle and safetensors raise many classes
            raise ValueError(
                f'{source} does not hold weights of {config.clip}: give the file that open_clip '
                f'publishes for it ({str(error).splitlines()[0]})'
            ) from None
    tags = open_clip.list_pretrained_tags_by_model(config.clip)
    if config.weights not in tags:
        raise FileNotFoundError(
            f'prior.weights: {config.weights!r} is neither a file nor one of the weights that '
            f'open_clip knows for {config.clip}: {", ".join(tags)}'
        )
    known = open_clip.get_pretrained_cfg(config.clip, config.weights)
    built = open_clip.get_model_config(config.clip).get('quick_gelu', False)
    if known.get('quick_gelu', False) != built:
        other = f'{config.clip}-quickgelu' if not built else config.clip.removesuffix('-quickgelu')
        raise ValueError(
            f'the weights {config.weights!r} were trained with another activation than '
            f'{config.clip} has: set prior.clip to {other}'
        )
    try:
        return open_clip.create_model(config.clip, pretrained=config.weights).eval()
    except Exception as error:  # the hub's libraries raise many classes
        raise FileNotFoundError(
            f'the weights {config.weights!r} of {config.clip} are not on this machine and could '
            f'not be fetched. Fetch {_address(config)} where there is a network and set '
            f'prior.weights to the path of the file ({str(error).splitlines()[0]})'
        ) from None


def _address(config: PriorConfig) -> str:
    """Where open_clip would fetch weights from."""
    import open_clip

    source = open_clip.get_pretrained_cfg(config.clip, config.weights)
    if source.get('hf_hub'):
        return f'https://huggingface.co/{source["hf_hub"].rstrip("/")} ({OPEN_CLIP_WEIGHTS[0]})'
    return source['url']


@torch.no_grad()
def embed_prompts(clip: nn.Module, pairs: tuple[tuple[str, str], ...]) -> Tensor:
    """Unit embeddings (K, 2, D) of K pairs of prompts."""
    device = next(clip.parameters()).device
    tokens = tokenize(clip, [prompt for pair in pairs for prompt in pair]).to(device)
    return functional.normalize(clip.encode_text(tokens), dim=-1).unflatten(0, (len(pairs), 2))


def tokenize(clip: nn.Module, texts: list[str]) -> Tensor:
    """Texts as a CLIP's text tower takes them: (N, context_length), whole numbers."""
    return _tokenizer()(texts, context_length=clip.context_length)


@functools.cache
def _tokenizer() -> Callable[..., Tensor]:
    """Reading the vocabulary takes half a second: once is enough."""
    import open_clip

    return open_clip.SimpleTokenizer()
