"""The training's command line: every word, and every old command and recipe path."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='torch is missing: only training needs it')
pytest.importorskip('lightning_fabric', reason='lightning-fabric is missing')

from dap_led_training import __main__ as commands
from dap_led_training import configuration, deprecated, old_recipes

ROOMS = {'trainers': commands.KINDS, 'measure': commands.MEASURE, 'make': commands.MAKE}


def run(*words: str) -> subprocess.CompletedProcess:
    """A command in a process of its own, as a user would start it."""
    return subprocess.run([sys.executable, '-m', *words], capture_output=True, text=True)


def has_main(path: Path) -> bool:
    return bool(re.search(r'^def main\(', path.read_text(), re.MULTILINE))


@pytest.mark.parametrize('room', ROOMS)
def test_every_command_is_listed_and_every_word_is_a_command(room):
    folder = Path(commands.__file__).parent / room
    found = {path.stem for path in folder.glob('*.py') if has_main(path)}
    assert found == set(ROOMS[room])
    for word, line in ROOMS[room].items():
        assert f'{word} ' in commands.help_text() and line in commands.help_text()
        assert len(f'  {word:15} {line}') < 100


@pytest.mark.parametrize('words', [[], ['--help'], ['train', '--help'], ['make', '-h']])
def test_help_lists_everything_and_imports_nothing_for_it(words, capsys):
    assert commands.main(words) == 0
    assert capsys.readouterr().out.strip() == commands.help_text()


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['measure'], 'say what'),
        (['measure', 'frame'], "nothing to measure is called 'frame': use frames, clips"),
        (['evaluate', 'nano'], "no verb 'evaluate': use train, measure or make"),
    ],
)
def test_a_wrong_word_is_told_the_right_ones(words, said):
    with pytest.raises(ValueError, match=said):
        commands.find(words)


def test_a_recipe_says_its_kind(tmp_path):
    recipe = tmp_path / 'recipe.yaml'
    for text, said in (
        ('network: nano', 'no line `kind: KIND`; a kind is one of exposure_first, paired'),
        ('kind: nano', "no kind 'nano'; a kind is one of"),
    ):
        recipe.write_text(text)
        with pytest.raises(ValueError, match=said):
            commands.find(['train', str(recipe)])
    recipe.write_text('kind: ptg_rm')
    assert commands.find(['train', str(recipe), '--out', 'x']) == (
        'trainers.ptg_rm',
        [str(recipe), '--out', 'x'],
    )
    recipes = sorted(configuration.RECIPES.rglob('*.yaml'))
    assert recipes and {configuration.kind_of(path) for path in recipes} == set(commands.KINDS)


# --- release 0.1 ------------------------------------------------------------------------------


def test_every_old_command_has_a_file():
    found = {path.stem for path in Path(deprecated.__file__).parent.glob('*.py')}
    assert found - {'__init__'} == set(deprecated.COMMANDS)


@pytest.mark.parametrize('old', deprecated.COMMANDS)
def test_an_old_module_warns_and_is_the_new_one(old):
    sys.modules.pop(f'dap_led_training.{old}', None)
    with pytest.warns(FutureWarning, match=f'python -m dap_led_training {deprecated.words(old)}'):
        module = importlib.import_module(f'dap_led_training.{old}')
    assert module.__name__ == f'dap_led_training.{deprecated.COMMANDS[old]}'
    room, word = deprecated.COMMANDS[old].split('.')
    assert word in ROOMS[room] and callable(module.main)


@pytest.mark.parametrize('old', old_recipes.MOVED)
def test_an_old_recipe_path_warns_and_is_the_new_one(old):
    path = f'training/configs/{old}.yaml'
    with pytest.warns(FutureWarning, match=f'training/recipes/{old_recipes.MOVED[old]}.yaml now'):
        found = old_recipes.today(path)
    assert found.is_file() and found.is_relative_to(configuration.RECIPES)


def test_a_path_that_never_was_is_left_alone(tmp_path):
    path = tmp_path / 'configs' / 'mine.yaml'
    assert old_recipes.today(path) == path
    path.parent.mkdir()
    own = path.with_name('nano.yaml')
    own.write_text('network: nano')
    assert old_recipes.today(own) == own


def test_an_old_command_still_runs(tmp_path):
    done = run('dap_led_training.pack', str(tmp_path / 'photographs.txt'), str(tmp_path))
    assert done.returncode == 2 and 'give it a name that ends in .pt' in done.stderr
    assert 'FutureWarning' in done.stderr and 'dap_led_training make pack' in done.stderr


def test_an_old_training_with_an_old_recipe_still_runs(tmp_path):
    words = ['configs/clip_lit_tiny.yaml', '--out', str(tmp_path), '--photographs', str(tmp_path)]
    done = run('dap_led_training.train_clip_lit', *words)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('error: no photo')
    for now in ('dap_led_training train RECIPE', 'training/recipes/tiny/clip_lit.yaml now'):
        assert now in done.stderr
