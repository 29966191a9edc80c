import re
from pathlib import Path
from shutil import copyfile

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CARD = "model_card_template.md"
# Read, not imported: importing the package needs what is installed with it.
VERSION = re.findall(r'^__version__ = "(.+)"$', (ROOT / "hf_dwt" / "__init__.py").read_text(encoding="utf-8"), re.M)[0]


class BuildWithCard(build_py):
    """Copy the card's template, which has one source at the top of the repository, into the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copyfile(ROOT / CARD, Path(self.build_lib) / "hf_dwt" / CARD)


setup(
    name="hf_dwt",
    version=VERSION,
    description="Train a larger language model from the smaller one you have: "
    "distillation from a weak teacher as a Hugging Face Trainer",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["hf_dwt", "hf_dwt.*"]),
    package_data={"hf_dwt": ["py.typed", "assess/evidence.json"]},
    cmdclass={"build_py": BuildWithCard},
    entry_points={"console_scripts": ["hf-dwt = hf_dwt.cli:main"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6",
        "transformers>=5.23",
        "datasets",
        "evaluate",
        "peft",
        "accelerate",
        "huggingface-hub",
        "jinja2",  # for huggingface-hub's model cards
        "numpy",
        "psutil",
        "pyyaml",
        "safetensors",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        "test": ["pytest", "pytest-xdist", "optuna", "deepspeed", "tensorboard", "build", "setuptools", "wheel"],
        "quality": ["ruff", "mypy", "types-PyYAML"],
        "plots": ["matplotlib"],
        "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
