"""Build and install dap_led_ros (ament_python); CONTRIBUTING.md says more of the libraries."""

from glob import glob

from setuptools import find_packages, setup

package_name = 'dap_led_ros'

# Only ONE of the extras `cpu` and `gpu`: both wheels own the folder onnxruntime/ and overwrite
# each other. OpenCV likewise: one wheel, the headless one. `dap-led doctor` finds a mixed install.
opencv = ['opencv-python-headless>=4.8,<6', 'pillow>=9,<14']  # pictures, and their metadata
ros = ['rclpy', 'sensor-msgs', 'diagnostic-msgs', 'lifecycle-msgs', 'std-srvs', 'rmw-fastrtps-cpp']
extras = {
    'cpu': ['onnxruntime>=1.17,<2', *opencv],  # the network on a CPU; images and video
    'gpu': ['onnxruntime-gpu>=1.17,<2', *opencv],  # the same with CUDA
    'openvino': ['openvino>=2024.4,<2027'],  # beside cpu: Intel's runtime, its GPUs and NPUs
    # reads and writes rosbag2 without a ROS installation, damaged and compressed ones too
    'bags': ['rosbags>=0.11,<0.12', 'mcap>=1.2,<2', 'zstandard>=0.20,<1'],
    'report': ['jinja2>=3.1,<4', 'plotly>=5,<8'],  # dap-led replay: one page, works offline
    # H.264 in and out, videos with their sound and time stamps (the wheels of av bring FFmpeg with
    # x264, GPL); cameras of Foxglove in protobuf
    'video': ['av>=14,<19', 'mcap-protobuf-support>=0.5,<1'],
    'heif': ['pillow-heif>=0.16,<2'],  # pictures of telephones (.heic)
    'plot': ['matplotlib>=3.5,<4'],  # dap-led benchmark --plot
    'ray': ['ray>=2.9,<3'],  # dap-led replay --ray: bags and parts of them on a cluster
    # ROS 2 itself, for machines that have none (CPython 3.10 to 3.13, x86_64)
    'ros': [f'ros-kilted-{name}' for name in ros],
    'ros-kilted': [f'ros-kilted-{name}' for name in ros],
    'ros-jazzy': [f'ros-jazzy-{name}' for name in ros],
    'train': [
        'torch>=2.4,<3',  # networks and training
        'torchvision>=0.19,<1',  # open_clip imports it; of the same release as torch
        'open_clip_torch>=2.30,<4',  # the CLIP that guides DAP-LED
        'lightning-fabric>=2.4,<3',  # devices, precision, several processes, checkpoints
        'tensorboard>=2.12,<3',  # curves of a training
        'torchmetrics>=1.4,<2',  # SSIM, LPIPS and correlations
        'onnx>=1.16,<2',  # export
        'onnxscript>=0.2,<1',  # the exporter of torch
        'safetensors>=0.4,<1',  # weights that execute nothing when loaded
        'pyyaml>=6,<7',  # training configurations
    ],
    # YOLO: ultralytics (AGPL-3.0) itself is installed with --no-deps, because it would bring a
    # second OpenCV; this is what it takes beside it.
    'detect': [
        'torch>=2.4,<3',
        'torchvision>=0.19,<1',
        'pillow>=9',
        'pyyaml>=6,<7',
    ],
    # NIQE, MUSIQ and NRQM. Its terms are non-commercial: nothing here needs it.
    'iqa': ['pyiqa>=0.1.10,<0.2'],
    'test': ['pytest>=7,<10', 'pyyaml>=6,<7'],
    'lint': ['ruff>=0.6,<1', 'import-linter>=2.6,<3'],  # style; which way imports point
    # make docs: the standard theme; the API out of the docstrings; pages where their code is
    'docs': [
        'mkdocs>=1.6,<2',
        'mkdocs-material>=9.5,<10',
        'mkdocstrings-python>=1.10,<3',
        'mkdocs-same-dir>=0.1,<1',
    ],
}

setup(
    name=package_name,
    version='0.1.0',
    description='Joint low-light enhancement and deblurring of camera topics (DAP-LED) for ROS 2',
    license='Apache-2.0',
    maintainer='dap_led_ros developers',
    maintainer_email='maintainers@dap-led-ros.invalid',
    python_requires='>=3.10',
    packages=[
        *find_packages(include=[package_name, f'{package_name}.*']),
        'dap_led_training',
        *(f'dap_led_training.{name}' for name in find_packages('training')),
    ],
    # Only this name: mapping dap_led_ros too would break `colcon build --symlink-install`.
    package_dir={'dap_led_training': 'training'},
    package_data={
        package_name: [
            'py.typed',
            'weights/*.*',
            'weights/priors/*.*',
            'weights/priors/*/*',
            'sample/*',
            'replay/templates/*',
        ],
        'dap_led_training': ['recipes/*/*.yaml', 'recipes/*/*/*.yaml', 'data/*.txt'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{package_name}']),
        (f'share/{package_name}', ['package.xml', 'README.md']),
        (f'share/{package_name}/docs', glob('docs/*.md')),
        (f'share/{package_name}/launch', glob('launch/*.launch.py')),
        (f'share/{package_name}/config', glob('config/*')),
    ],
    zip_safe=False,
    install_requires=[
        'setuptools',
        'numpy>=1.21,<3',  # frames
        'tqdm>=4.60,<5',  # progress bars
    ],
    extras_require=extras,
    entry_points={
        'console_scripts': [
            'dap-led = dap_led_ros.cli:main',
            'enhance_node = dap_led_ros.nodes.__main__:enhance',
            'detect_node = dap_led_ros.nodes.__main__:detect',
            'player_node = dap_led_ros.nodes.__main__:player',
        ],
    },
)
