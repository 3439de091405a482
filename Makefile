# make demo: see the enhance node at work.   make test: run every test.
# Where a ROS 2 is sourced it is used; elsewhere ROS comes from PyPI into .venv. Nothing else of the
# machine is touched.

PYTHON ?= python3
# cpu or gpu: which ONNX Runtime to install
RUNTIME ?= cpu
# for make demo: a video, a folder of pictures or a rosbag2 folder
INPUT ?=

HAS_ROS := $(shell $(PYTHON) -c 'import rclpy, sensor_msgs' 2>/dev/null && echo yes)
ifeq ($(HAS_ROS),yes)
  VENV := .venv-$(or $(ROS_DISTRO),ros)
  VENV_OPTIONS := --system-site-packages
  # rclpy of this ROS was compiled for this NumPy
  NUMPY := $(shell $(PYTHON) -c 'import numpy; print("numpy==" + numpy.__version__)')
else
  VENV := .venv
  ROS_EXTRA := ,ros
endif

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/runtime.stamp
	@MALLOC_MMAP_THRESHOLD_=67108864 MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_TOP_PAD_=67108864 \
	  $(VENV)/bin/python -m dap_led_ros.nodes.demo $(if $(INPUT),"$(INPUT)")

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest test

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean:
	rm -rf .venv .venv-* demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)

$(VENV)/runtime.stamp: $(VENV)/bin/python setup.py constraints.txt
	@echo "Setting up $(VENV) (once; under a minute on a good line) ..."
	$(PIP) -e '.[$(RUNTIME),bags$(ROS_EXTRA)]' $(NUMPY)
	@touch $@

$(VENV)/test.stamp: $(VENV)/runtime.stamp
	@echo "Adding what the tests need, torch among it (once; a few minutes) ..."
	$(PIP) -e '.[$(RUNTIME),bags$(ROS_EXTRA),train,test,lint]' $(NUMPY)
	@touch $@
