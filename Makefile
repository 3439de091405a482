# make demo: see the enhance node at work.   make test: run the tests; test-all: the slow ones, too.
# make docs: the pages as a site in build/docs.
# Where a ROS 2 is sourced it is used; elsewhere ROS comes from PyPI into .venv. Nothing else of the
# machine is touched.

PYTHON ?= python3
# cpu or gpu: which ONNX Runtime to install
RUNTIME ?= cpu
# for make demo: a video, a folder of pictures or a rosbag2 folder, and an image topic of the bag
INPUT ?=
TOPIC ?=
# where no ROS is sourced: which one to get from PyPI, kilted or jazzy
DISTRO ?= kilted

# A sourced ROS 2 has set AMENT_PREFIX_PATH; wheels in some Python environment have not.
HAS_ROS := $(if $(AMENT_PREFIX_PATH),$(shell $(PYTHON) -c 'import rclpy, sensor_msgs' 2>/dev/null || echo no),no)
ifeq ($(HAS_ROS),)
  VENV := .venv-$(or $(ROS_DISTRO),ros)
  VENV_OPTIONS := --system-site-packages
  # A ROS compiled for NumPy 1 does not work with NumPy 2.
  NUMPY := $(shell $(PYTHON) -c 'import numpy; print("numpy<2" if numpy.__version__[0] == "1" else "")')
else
  VENV := .venv$(if $(filter-out kilted,$(DISTRO)),-pypi-$(DISTRO))
  ROS_EXTRA := ,ros-$(DISTRO)
  # The wheels do not set it, and the name of Fast DDS' variable depends on it.
  export ROS_DISTRO := $(DISTRO)
endif

RUNTIME_STAMP := $(VENV)/runtime-$(RUNTIME).stamp
TEST_STAMP := $(VENV)/test-$(RUNTIME).stamp
OTHER_RUNTIME := $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install -c constraints.txt

.PHONY: demo test test-all lint docs clean

demo: $(RUNTIME_STAMP)
	@MALLOC_MMAP_THRESHOLD_=67108864 MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_TOP_PAD_=67108864 \
	  $(VENV)/bin/python -m dap_led_ros.nodes.demo \
	  $(if $(INPUT),"$(INPUT)") $(if $(TOPIC),--topic "$(TOPIC)")

test: $(TEST_STAMP)
	$(VENV)/bin/python -m pytest test

test-all: $(TEST_STAMP)
	$(VENV)/bin/python -m pytest test -m ''

lint: $(TEST_STAMP)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true \
	  $(VENV)/bin/python -m mkdocs build --quiet --strict && echo "build/docs/index.html"

clean:
	rm -rf .venv .venv-* demo build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUNTIME_STAMP): $(VENV)/bin/python setup.py constraints.txt
	@echo "Setting up $(VENV) (once; under a minute on a good line) ..."
	@rm -f $(VENV)/*.stamp; $(PIP) uninstall --yes $(OTHER_RUNTIME) 2>/dev/null || true
	$(INSTALL) -e '.[$(RUNTIME),bags$(ROS_EXTRA)]' $(NUMPY)
	@touch $@

$(TEST_STAMP): $(RUNTIME_STAMP)
	@echo "Adding what the tests need, torch among it (once; a few minutes) ..."
	$(INSTALL) -e '.[$(RUNTIME),openvino,bags,report,video,heif$(ROS_EXTRA),train,detect,test,lint]' $(NUMPY)
	$(INSTALL) --no-deps ultralytics
	@touch $@

$(VENV)/docs.stamp: $(RUNTIME_STAMP)
	$(INSTALL) -e '.[$(RUNTIME),bags,docs$(ROS_EXTRA)]' $(NUMPY)
	@touch $@
