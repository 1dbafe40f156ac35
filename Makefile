# Two commands from a bare clone with nothing but Python: `make demo` and `make test`. Both can be repeated.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-ros lint clean

demo: $(VENV)/.demo-installed
	$(BIN)/fewstep demo --output demo --overwrite

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The wheels of ROS start every Python of their environment twice, so they have one of their own. The nodes keep real
# time in processes of their own: one test at a time, and what failed once more, since a shared machine stalls.
test-ros:
	$(MAKE) VENV=.venv-ros .venv-ros/.test-ros-installed
	.venv-ros/bin/python -m pytest tests/robotics/ros2 || .venv-ros/bin/python -m pytest --last-failed tests/robotics/ros2

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# pip's constraints keep torch at the tested version; without them a newer build and gigabytes of CUDA may come.
$(VENV)/.%-installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .venv-ros demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
