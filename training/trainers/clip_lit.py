"""Train without pairs: python -m dap_led_training train RECIPE --out RUN.

CLIP-LIT (Liang et al. 2023): a pair of prompts, degraded and clean, is learned through the frozen
text tower of a CLIP. By the image tower it then says how degraded a frame looks, and a network is
trained to lower that. RUN holds the stages, each a run of the loop in a folder of its own:

    prompts_0        the pair, by cross-entropy between the two sets (eq. 1)
    reconstruction   the network, to leave frames as they are (eq. 4)
    enhancement_0    the network, by the pair (eq. 5)
    prompts_1        the pair, by ranking what the network makes of frames (eq. 7; from 2 on eq. 8)
    enhancement_1    the network, by the new pair; and so on

and what the last finished round left: weights.safetensors, which Enhancer.load and the node open,
and prompts.safetensors, a prior for DAP-LED (`prior: {kind: learned, prompts: PATH}`). Started
again it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior, load_clip, save_prompts, tokenize
from dap_led_ros.models.illumination import PRESETS, Illumination
from dap_led_ros.priors import NAMES, PriorConfig
from dap_led_ros.priors.clip import ClipPrior
from dap_led_training import configuration, loop, losses
from dap_led_training.data.batches import Stage, as_planes
from dap_led_training.data.unpaired import UnpairedBatches, UnpairedConfig, sources
from dap_led_training.night.night_blur import NightBlurConfig

PROMPTS = 'prompts.safetensors'


@dataclass(frozen=True)
class Part:
    """One kind of stage."""

    steps: int
    batch: int
    """Pictures of each set in one step."""
    learning_rate: float


@dataclass(frozen=True)
class ClipLitConfig:
    """A recipe; see recipes/companions/clip_lit.yaml. The defaults are the paper's."""

    data: UnpairedConfig
    prompts: Part
    refinement: Part
    """Of the prompts, once a round."""
    reconstruction: Part
    enhancement: Part
    tuning: Part
    """Of the network, once a round."""
    layers: list[int]
    """Blocks of the image tower that eq. 4 compares, from 0; the paper's are a ResNet's."""
    layer_weights: list[float]
    """alpha_l of eq. 4 after the reconstruction, which weighs all layers the same."""
    crop: int
    patches: float = 1.0
    """Share of the image tower's patches that a step looks at, anew each step. Below 1 it is
    faster; for a CLIP that was trained so, as degradation-clip-tiny was."""
    identity: float = 0.9
    """w of eq. 5."""
    rounds: int = 2
    margins: tuple[float, float, float] = (0.9, 0.2, 0.2)
    """m0, m1 and m2 of eq. 7 and 8."""
    tokens: int = 16
    """N, of each prompt."""
    network: str = 'illumination'
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Whose CLIP."""
    fixed: str = ''
    """joint, low_light or blur: these words in place of learned prompts (paper, Table 3)."""
    night_blur: NightBlurConfig = field(default_factory=NightBlurConfig)
    """Of data.photographs."""
    loop: loop.LoopConfig = field(default_factory=loop.LoopConfig)

    def __post_init__(self) -> None:
        """Refuse values that no branch knows.

        :raises ValueError: no such network, words, kind of prior or layers.
        """
        for name, known in (('network', PRESETS), ('fixed', ('', *NAMES))):
            if getattr(self, name) not in known:
                raise ValueError(f'{name}: {getattr(self, name)!r} is not one of {tuple(known)}')
        if self.prior.kind != 'clip':
            raise ValueError('prior.kind: prompts are learned for the kind clip')
        if not self.layers or len(self.layers) != len(self.layer_weights):
            raise ValueError('layers and layer_weights: give one weight for each of the layers')


class Patches(nn.Module):
    """In place of open_clip's patch dropout: keeps the same patches of all frames until draw()."""

    def __init__(self, share: float, count: int) -> None:
        super().__init__()
        self.count, self.kept = count, max(1, round(share * count))
        self.draw()

    def draw(self) -> None:
        """Choose others."""
        self.chosen = torch.randperm(self.count)[: self.kept]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + count, width) -> (B, 1 + kept, width)."""
        return torch.cat([x[:, :1], x[:, 1 + self.chosen.to(x.device)]], dim=1)


class Prompts(nn.Module):
    """A pair of prompts, degraded and clean, each of `count` tokens that are no words."""

    def __init__(self, clip: nn.Module, count: int) -> None:
        """Begin at random, as long as the CLIP's words are.

        :raises ValueError: the text tower takes fewer tokens.
        """
        super().__init__()
        if count + 2 > clip.context_length:
            raise ValueError(f'tokens: this CLIP takes {clip.context_length - 2}, not {count}')
        words = clip.token_embedding.weight
        self.tokens = nn.Parameter(torch.randn(2, count, words.shape[1]) * words.std())
        self.register_buffer('placeholder', tokenize(clip, ['x ' * count] * 2), persistent=False)
        self._clip = (clip.requires_grad_(False),)  # in a tuple: neither trained nor written

    def forward(self) -> Tensor:
        """Unit embeddings (2, D)."""
        clip = self._clip[0].to(self.tokens.device)
        end = 1 + self.tokens.shape[1]

        def put(_: nn.Module, __: tuple, words: Tensor) -> Tensor:
            return torch.cat([words[:, :1], self.tokens, words[:, end:]], dim=1)

        # Everything else of the text tower is as open_clip has it, whichever CLIP it is.
        hook = clip.token_embedding.register_forward_hook(put)
        try:
            return functional.normalize(clip.encode_text(self.placeholder).float(), dim=-1)
        finally:
            hook.remove()


class PromptRecipe(nn.Module):
    """Learns the prompts: from the two sets alone, or from what enhancers make of one, too."""

    def __init__(
        self, config: ClipLitConfig, start: Path | None = None, enhancers: tuple[Path, ...] = ()
    ) -> None:
        """Begin anew, or at `start`; enhancers are of the last round and of this one."""
        super().__init__()
        self.margins = config.margins
        clip = load_clip(config.prior)
        self.network = Prompts(clip, config.tokens)
        if start:
            self.network.load_state_dict({'tokens': load_file(start)['tokens']})
        self._frozen = (judge(config), *(checkpoint.load(path) for path in enhancers))

    def forward(self, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Loss terms of two sets of (B, H, W, 3) uint8 frames."""
        degraded, clean = as_planes(degraded), as_planes(clean)
        prior, *enhancers = (module.to(degraded.device) for module in self._frozen)
        prior.visual.patch_dropout.draw()
        with torch.no_grad():
            frames = [clean, *(enhance(degraded) for enhance in enhancers), degraded]
            images = functional.normalize(prior.embed(torch.cat(frames)), dim=-1)
        pair, scale = self.network(), prior.logit_scale
        if not enhancers:
            is_clean = torch.arange(2, device=pair.device).flip(0).repeat_interleave(len(clean))
            return {'entropy': functional.cross_entropy(scale * images @ pair.T, is_clean)}
        scores = losses.degradedness(images, pair, scale).chunk(len(frames))
        return {'ranking': ranking(*scores, margins=self.margins)}

    def write(self, network: nn.Module, path: Path) -> None:
        """Write averaged prompts."""
        save_prompts(path, network(), self._frozen[0], tokens=network.tokens)


class IlluminationRecipe(nn.Module):
    """Trains the network: to keep the frame, and to make it look less degraded."""

    def __init__(
        self, config: ClipLitConfig, start: Path | None = None, prompts: Path | None = None
    ) -> None:
        """Begin anew, or at `start`; without prompts, fixed or learned, only to reconstruct."""
        super().__init__()
        self.config = config
        self.reconstructing = not start
        self.network = Illumination(PRESETS[config.network])
        if start:
            self.network.load_state_dict(load_file(start))
        self._frozen = (judge(config, prompts),)

    def forward(self, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Loss terms of (B, H, W, 3) uint8 frames; the clean ones are only for the prompts."""
        config, prior = self.config, self._frozen[0].to(degraded.device)
        prior.visual.patch_dropout.draw()
        frames = as_planes(degraded)
        enhanced = self.network(frames)
        with torch.no_grad():
            before, _ = prior.layers(frames, config.layers)
        after, embedded = prior.layers(enhanced.float(), config.layers)
        weights = [1.0] * len(after) if self.reconstructing else config.layer_weights
        terms = {'identity': config.identity * identity(before, after, weights)}
        if not self.reconstructing:
            terms['clip'] = losses.clip_of_embedding(embedded, prior, 'pair')  # eq. 3
        return terms

    def write(self, network: nn.Module, path: Path) -> None:
        """Write averaged weights as a checkpoint for the Enhancer."""
        checkpoint.save(network, path)


def ranking(clean: Tensor, *scores: Tensor, margins: tuple[float, float, float]) -> Tensor:
    """Margin ranking of degradedness: clean, enhanced, degraded rise; each (B,).

    :param scores: of frames as this round's network leaves them, and degraded (eq. 7); or of the
        last round's, of this round's, and degraded (eq. 8).
    """
    m0, m1, m2 = margins
    *past, now, degraded = scores
    earlier = past[0] if past else now
    terms = [
        clean - degraded + m0,
        earlier - degraded + m0,
        clean - now + m1,
        *(now - last + m2 for last in past),
    ]
    return sum(term.clamp(min=0).mean() for term in terms)


def identity(before: list[Tensor], after: list[Tensor], weights: list[float]) -> Tensor:
    """Weighted distance of tokens (B, N, width), layer by layer (eq. 4).

    Mean squares, of tokens normalized as the next block reads them: a sum, as the paper writes
    it, would weigh a layer by its size, and the tokens of a ViT grow from block to block.
    """
    distances = []
    for one, other in zip(before, after):
        one, other = (functional.layer_norm(t.float(), t.shape[-1:]) for t in (one, other))
        distances.append(((one - other) ** 2).mean())
    return sum(weight * distance for weight, distance in zip(weights, distances))


def judge(config: ClipLitConfig, prompts: Path | None = None) -> ClipPrior:
    """The CLIP whose first pair are the prompts: the fixed ones of the recipe, or learned ones."""
    chosen = config.prior
    if prompts:
        chosen = dataclasses.replace(chosen, kind='learned', prompts=str(prompts))
    prior = build_prior(chosen)
    if config.fixed:
        prior.texts[0] = prior.texts[NAMES.index(config.fixed)]
    height, width = prior.visual.grid_size
    prior.visual.patch_dropout = Patches(config.patches, height * width)
    return prior


def train(config: ClipLitConfig, out: Path) -> Path:
    """Train (or resume) all stages; returns the path of the network's weights.

    :raises ValueError: the configuration is wrong, or `out` holds a run with another one.
    :raises FileNotFoundError: pictures or a CLIP's weights are not there.
    """
    sets = sources(config.data, config.night_blur)

    def fit(number: int, name: str, part: Part, kind: type, *begin: object) -> Path:
        """One stage; sees crops of its own."""
        folder = out / name
        optimizing = dataclasses.replace(config.loop, learning_rate=part.learning_rate)
        fabric = loop.start_alone(optimizing, folder)
        loop.write_record(folder, config, optimizing)
        fabric.print(name)
        recipe = kind(config, *begin)
        stages = [Stage(config.crop, part.batch, part.steps)]
        batches = UnpairedBatches(*sets, stages, seed=config.loop.seed + number)
        loop.fit(fabric, recipe, batches, optimizing, folder, recipe.write)
        return folder / loop.WEIGHTS

    prompts = None
    if not config.fixed:
        prompts = fit(0, 'prompts_0', config.prompts, PromptRecipe)
    network = fit(1, 'reconstruction', config.reconstruction, IlluminationRecipe)
    network = fit(2, 'enhancement_0', config.enhancement, IlluminationRecipe, network, prompts)
    past = (network,)
    _keep(out, network, prompts)
    for number in range(1, config.rounds + 1):
        seed = 1 + 2 * number
        if prompts:
            name = f'prompts_{number}'
            prompts = fit(seed, name, config.refinement, PromptRecipe, prompts, past)
        name = f'enhancement_{number}'
        network = fit(seed + 1, name, config.tuning, IlluminationRecipe, network, prompts)
        past = (past[-1], network)
        _keep(out, network, prompts)
    return out / loop.WEIGHTS


def _keep(out: Path, network: Path, prompts: Path | None) -> None:
    """Put what a round left into the run's folder."""
    for name, path in ((loop.WEIGHTS, network), (PROMPTS, prompts)):
        if path:
            loop.write_whole(out / name, lambda part, path=path: shutil.copyfile(path, part))


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = configuration.recipe_parser('train', __doc__)
    for name in ('degraded', 'clean'):
        parser.add_argument(
            f'--{name}', nargs='+', default=[], metavar='FOLDER', help="in place of the config's"
        )
    parser.add_argument('--fixed', choices=NAMES, help='words in place of learned prompts')
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, ClipLitConfig)
    if options.photographs or options.degraded or options.clean:
        data = UnpairedConfig(options.degraded, options.clean, options.photographs)
        config = dataclasses.replace(config, data=data)
    if options.fixed:
        config = dataclasses.replace(config, fixed=options.fixed)
    print(f'the weights are in {train(config, options.out)}')
