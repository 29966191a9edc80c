"""Every test runs offline, on one thread, and away from the user's caches."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # two threads are slower on models this small
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_dwt-tests-")

import torch

torch.set_num_threads(1)
