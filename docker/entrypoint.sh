#!/bin/bash
# Source the workspace, and ROS below it; then run what was asked for.
set -e
source /ws/install/setup.bash
exec "$@"
