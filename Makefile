# One door per job. The environment is made once in .venv and again only when its recipe changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SAY    ?= good morning beautiful orchestra
SCENE  ?= a woman with tan skin, long brown hair, blue background
SOUND  ?= a medium female voice
TESTS  ?= tests
OUT    ?= out/miniature
DEVICE ?= cpu
PROCESSES ?= 2

.PHONY: test demo lint miniature clean

test: lint
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

demo: $(STAMP)
	mkdir -p out
	$(BIN)/python -m unitalk_core sample --model tiny --say "$(SAY)" --scene "$(SCENE)" --sound "$(SOUND)" \
		--seed 1 --out out/demo.mp4

$(STAMP): pyproject.toml requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt torch --editable ".[train,data,eval,test]"
	touch $@

# From nothing to the files that are shipped; an interrupted recipe goes on. DEVICE=cuda, or PROCESSES on CPUs.
miniature: $(STAMP)
	$(BIN)/python -m unitalk_core.training.miniature $(OUT) --device $(DEVICE) --processes $(PROCESSES)

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache
