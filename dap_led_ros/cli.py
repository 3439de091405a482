"""The command line: dap-led enhance | replay | compare | export | info | benchmark | doctor."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

# Only what a broken installation has too: `dap-led doctor` must run where OpenCV does not.
from dap_led_ros import doctor, model_commands
from dap_led_ros.evaluation.commands import add_commands as add_evaluation


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all went well, 1 when not, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog='dap-led', description='Joint low-light enhancement and deblurring.'
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    enhance = commands.add_parser('enhance', help='enhance a picture, a folder or a video')
    enhance.add_argument('input', type=Path, metavar='INPUT')
    enhance.add_argument('output', type=Path, metavar='OUTPUT')
    enhance.add_argument(
        '--model', default='nano', help='name, or path of an .onnx or .safetensors file'
    )
    enhance.add_argument('--device', default='auto', help='auto, cpu or cuda')
    enhance.add_argument('--overwrite', action='store_true', help='replace files that exist')
    enhance.set_defaults(run=_enhance)
    add_evaluation(commands)
    model_commands.add_commands(commands)
    commands.add_parser('doctor', help='check this installation').set_defaults(run=_doctor)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        print(f'dap-led: {error}', file=sys.stderr)
    except KeyboardInterrupt:
        print('dap-led: interrupted', file=sys.stderr)
    return 1


def _enhance(options: argparse.Namespace) -> int:
    import cv2

    from dap_led_ros import media
    from dap_led_ros.inference import Enhancer

    # Our own message says what is wrong with a file.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    source, output = options.input, options.output
    if source.is_dir() and not (source / 'metadata.yaml').exists():
        return _enhance_folder(options)
    opened = media.open_source(source)
    if opened.kind == 'bag':
        raise ValueError(f'{source} is a bag: give a picture, a folder of pictures or a video')
    if output.is_dir():
        output = output / source.name
    _may_write(source, output, options.overwrite)
    if opened.kind == 'image':
        enhancer = Enhancer.load(options.model, options.device)
        media.write_image(output, enhancer.enhance(next(opened.frames)).frame)
        return 0
    with media.VideoFile(output, opened.rate or 25.0) as video:
        enhancer = Enhancer.load(options.model, options.device)
        for frame in tqdm(opened.frames, total=opened.count, unit='frame'):
            video.write(enhancer.enhance(frame).frame)
    return 0


def _enhance_folder(options: argparse.Namespace) -> int:
    """Enhance what can be read; name what cannot."""
    from dap_led_ros import media
    from dap_led_ros.inference import Enhancer

    pictures = media.find_images(options.input)
    if not pictures:
        raise ValueError(f'{options.input} has no pictures ({", ".join(media.IMAGE_SUFFIXES)})')
    for picture in pictures:
        _may_write(picture, options.output / picture.name, options.overwrite)
    enhancer = Enhancer.load(options.model, options.device)
    failed = 0
    for picture in tqdm(pictures, unit='picture'):
        try:
            frame = enhancer.enhance(media.read_image(picture)).frame
        except ValueError as error:
            failed += 1
            tqdm.write(f'dap-led: skipped {picture}: {error}', file=sys.stderr)
            continue
        media.write_image(options.output / picture.name, frame)
    if failed:
        print(f'dap-led: {failed} of {len(pictures)} pictures were skipped', file=sys.stderr)
    return 1 if failed else 0


def _may_write(source: Path, output: Path, overwrite: bool) -> None:
    if output.exists() and output.resolve() == source.resolve():
        raise ValueError(f'{output} is the input: choose another OUTPUT')
    if output.exists() and not overwrite:
        raise ValueError(f'{output} exists: choose another OUTPUT or add --overwrite')


def _doctor(_: argparse.Namespace) -> int:
    findings = doctor.examine()
    for finding in findings:
        print(f'{finding.status:8}{finding.what}')
        if finding.remedy:
            print(f'        -> {finding.remedy}')
    return int(any(finding.status == 'problem' for finding in findings))


if __name__ == '__main__':
    sys.exit(main())
