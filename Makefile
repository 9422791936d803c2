# Two commands for a fresh machine with Python 3.11 or newer:
#   make demo   the light runtime on two photos (own environment in .venv-demo)
#   make test   everything: format check, lint, types, tests (own environment in .venv)

PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
SHELL := /bin/sh

.PHONY: demo test format check pytest bench clean

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/szn-run --demo -o demo-output

test: $(VENV)/.installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest $(PYTEST_ARGS)

format: $(VENV)/.installed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.installed
	for name in sei network preprocess pipeline soak; do $(VENV)/bin/python benchmarks/$$name.py || exit 1; done

# The exact versions of constraints.txt, so that two machines get the same environment.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SZN needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(MAKE) --no-print-directory opencv ENVIRONMENT=$(VENV)
	touch $@

$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SZN needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,demo]"
	@$(MAKE) --no-print-directory opencv ENVIRONMENT=$(DEMO_VENV)
	touch $@

# OpenCV's usual wheel needs the system's libGL. Where that is missing (servers, containers), say
# so and take the wheel without windows.
.PHONY: opencv
opencv:
	@$(ENVIRONMENT)/bin/python -c 'import cv2' 2>/dev/null || { \
	  echo "opencv-python does not load here (no libGL?): installing opencv-python-headless instead; --show will not work"; \
	  $(ENVIRONMENT)/bin/python -m pip uninstall --quiet --yes opencv-python && \
	  $(ENVIRONMENT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt opencv-python-headless; }

clean:
	rm -rf $(VENV) $(DEMO_VENV) demo-output
