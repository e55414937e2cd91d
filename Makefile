# Two commands for a fresh machine with Python, git and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-cluster
EXTRAS := test
# Python compiles a module when it is first imported: a minute less than compiling all of them.
PIP_INSTALL = $(BIN)/python -m pip install --no-compile --constraint constraints.txt
DEMO := out/demo
DRIVE := $(DEMO)/drive/metadata.yaml
BITS ?= 16
CHECKPOINT = $(if $(filter 2,$(BITS)),small-2bit,small)
LESSONS := out/calibration
DEVICE ?= cpu
# Drives that no training and no evaluation sees.
LESSON_SEEDS := 1001 1002 1003

export HF_HUB_OFFLINE := 1
# Threads that wait for each other in loops stall on a busy machine: a context of a small checkpoint
# then took seconds instead of 0.2 s. One thread costs a quarter of its speed on an idle one.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo replay small-2bit small15-2bit test soak fuzz docs clean

help:
	@echo 'make demo    a synthetic drive played to the live node, with a small trained checkpoint: $(DEMO)/live'
	@echo 'make replay  the same drive offline: $(DEMO)/replay; BITS=2 takes the checkpoint of 2 bits, for both'
	@echo 'make small-2bit  checkpoints/small-2bit anew, calibrated on three drives; small15-2bit likewise;'
	@echo '             DEVICE=cuda does the work on a GPU'
	@echo 'make test    unit, golden and lint tests'
	@echo 'make soak    ten minutes of the node at five times real time, with a fault in every second'
	@echo 'make fuzz    an hour of bags, rigs, images, messages and checkpoints changed at random'
	@echo 'make docs    write the generated parts of README.md and docs/'
	@echo 'make setup   the virtual environment $(VENV), which both of them set up when needed'
	@echo 'make clean   remove what demo, replay and tests made; the environment and the rest of out stay'

setup test: EXTRAS := test,cluster,alpasim
setup: $(TEST_STAMP)

$(STAMP): setup.py package.xml constraints.txt rosless/pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	    rm -rf $(VENV); \
	    echo 'make: no virtual environment: on Debian and Ubuntu, apt install python3-venv' >&2; \
	    exit 1; }
	$(PIP_INSTALL) --editable '.[$(EXTRAS)]' --editable ./rosless
	@touch $@

# Ray and the wire of AlpaSim are for tests alone: the demo and the node do without them.
$(TEST_STAMP): $(STAMP)
	@$(BIN)/python -m pip show --quiet carla-driver-interface || $(PIP_INSTALL) --editable '.[test,cluster,alpasim]'
	@touch $@

# A drive that no training has seen: behind a slower car, right at a junction, a stop behind the car,
# and on again.
$(DRIVE): $(wildcard alpamayo_ros/world/*.py) | $(STAMP)
	@rm -rf $(DEMO)
	$(BIN)/alpamayo_drive $(DEMO)/drive --seed 105 --seconds 25

# The real graph: player, node and recorder as processes of their own, for this machine only. They
# run on the ROS 2 that is sourced; without one, on rosless.
demo: export ROS_DOMAIN_ID ?= 77
demo: export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
ifeq ($(ROS_DISTRO),humble)  # it knows no such range
demo: export ROS_LOCALHOST_ONLY ?= 1
endif
demo: $(STAMP) $(DRIVE)
	@rm -rf $(DEMO)/live
	$(BIN)/python -m rosless alpamayo_ros.cli.live $(DEMO)/drive --rig synthetic --out $(DEMO)/live \
	    --checkpoint $(CHECKPOINT) --bits $(BITS) --device cpu --num-samples 3 \
	    --on-invalid publish_invalid --expired-path publish

replay: $(STAMP) $(DRIVE)
	@rm -rf $(DEMO)/replay
	$(BIN)/alpamayo_replay $(DEMO)/drive --checkpoint $(CHECKPOINT) --rig synthetic \
	    --device cpu --samples 3 --period 0.5 --out $(DEMO)/replay

$(LESSONS)/%/metadata.yaml: $(wildcard alpamayo_ros/world/*.py) | $(STAMP)
	@rm -rf $(@D)
	$(BIN)/alpamayo_drive $(@D) --seed $* --seconds 60

small-2bit small15-2bit: %-2bit: $(STAMP) $(LESSON_SEEDS:%=$(LESSONS)/%/metadata.yaml)
	@rm -rf checkpoints/$@
	$(BIN)/alpamayo_quantize $* checkpoints/$@ --bits 2 --rig synthetic --device $(DEVICE) \
	    $(LESSON_SEEDS:%=--drive $(LESSONS)/%)

# Where ROS 2 is sourced the first runs on it; the tests of its stand-in never do. Three workers on
# two cores: one takes the tests over the wire, which mostly wait.
test: $(TEST_STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder
	cd rosless && env -u PYTHONPATH -u LD_LIBRARY_PATH ../$(BIN)/python -m pytest -n 2 --dist loadfile

# For this machine only; on the ROS 2 that is sourced, else on rosless. SOAK='--seconds 60 --seed 1' changes it.
soak: $(STAMP)
	$(BIN)/python test/soak.py $(SOAK)

# New seeds; the input of each finding stays in out/fuzz. FUZZ='--seconds 60 --kinds bag' changes it.
fuzz: $(STAMP)
	$(BIN)/python test/fuzz.py --seconds 3600 --keep out/fuzz $(FUZZ)

# The parts between marks: from code and docs/results. A test names the documents that are not current.
docs: $(STAMP)
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(DEMO) .pytest_cache rosless/.pytest_cache .mypy_cache .ruff_cache
