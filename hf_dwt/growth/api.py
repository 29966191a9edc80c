"""What a caller uses: `plan_growth`, and `from_weak_teacher`, which applies the plan at once."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Never

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..signatures import takes_arguments_of
from .arguments import check_arguments, errors_about
from .building import own_randomness
from .checkpoint import Teacher, TeacherSource
from .plan import GrownModel, GrowthPlan, make_growth_plan
from .rests import Rest
from .strategy import Init
from .vocabulary.new_rows import NewRows


def plan_growth(
    teacher: TeacherSource,
    *,
    auto_class: str | type | None = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int | None = None,
    pad_vocab_to_multiple_of: int | None = None,
    max_position_embeddings: int | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    init: str | Init = "remap",
    rest: str | Rest = "init",
    new_rows: str | NewRows = "init",
    depth: str | None = None,
    symmetry: float = 0.5,
    seed: int = 0,
    **from_pretrained_kwargs: Any,
) -> GrowthPlan:
    """What `from_weak_teacher` does with the same arguments, which is `plan_growth(...).apply()`. No weight is read.

    Returns:
        the plan: `print(plan)` shows it layer by layer; `config`, `parameters`, `memory` and `exact` are parts of it.

    Raises:
        GrowthNotPreservedError: an exact strategy would not be exact, naming the axis or module and why.
        GrowthError: as `from_weak_teacher`, before a weight is read.
    """
    arguments = {key: value for key, value in locals().items() if key != "from_pretrained_kwargs"}
    check_arguments(plan_growth, arguments, from_pretrained_kwargs)
    with errors_about({**arguments, **from_pretrained_kwargs}), own_randomness(seed):
        return make_growth_plan(arguments, from_pretrained_kwargs)


def plan_later_growth(skeleton: PreTrainedModel, name: str, given: Mapping[str, Any]) -> GrowthPlan:
    """The plan of a growth from a model that is yet to be trained; it is printed and looked at, and not applied.

    Args:
        skeleton: the model on the meta device.
        name: of the model, for the plan and its errors.
        given: arguments of `plan_growth` but the teacher; those of `from_pretrained` have no effect.

    Raises:
        GrowthError: as `plan_growth`.
    """
    own = inspect.signature(plan_growth).parameters
    defaults = {key: parameter.default for key, parameter in list(own.items())[1:-1]}
    arguments = {"teacher": skeleton, **defaults, **{key: value for key, value in given.items() if key in own}}
    check_arguments(plan_growth, arguments, {key: value for key, value in given.items() if key not in own})
    with errors_about(arguments), own_randomness(arguments["seed"]):
        return make_growth_plan({**arguments, "teacher": Teacher(name, skeleton, _no_weights)}, {})


def _no_weights() -> Never:
    raise RuntimeError("this model is yet to be trained: it has no weights")


@takes_arguments_of(plan_growth)
def from_weak_teacher(*args: Any, **kwargs: Any) -> GrownModel:
    """Grow a larger student from a smaller teacher (Lee et al., 2023, arXiv 2305.18239).

    Sizes that are not given are derived: heads keep their width, and heads, key/value heads and the FFN grow in
    proportion to the hidden size. Vocabulary, special ids, dropout, tied weights, dtype and generation config are the
    teacher's.

    Args:
        teacher: Hub id, local path or model; of an adapter of peft too, which is merged into a copy of its model.
        auto_class: class or its name, such as "AutoModelForMaskedLM"; default: the one the checkpoint names.
        hidden_size: width of the residual stream.
        num_hidden_layers: depth; the decoder of an encoder-decoder grows by the same ratio.
        num_attention_heads: query heads of a layer.
        num_key_value_heads: key/value heads of a layer, where the architecture has them.
        head_dim: width of a head.
        intermediate_size: width of the FFN.
        vocab_size: number of rows of the embedding and the head, such as len(tokenizer) with added tokens. Old tokens
            keep their rows, and their logits under the exact initialisations.
        pad_vocab_to_multiple_of: rounds the number of rows up.
        max_position_embeddings: number of positions; learned ones get new rows behind the old.
        config_overrides: further attributes, under the config's own names; for a part of a composite config a dict.
        tokenizer: of the student, itself or an id or path, where it is another than the teacher's. Embeddings and
            head of its tokens are made from the teacher's: a token of the same text is copied, another is the mean of
            the old pieces of its text, special tokens go by their role, and what is left is as `new_rows` says. The
            ids of tokens in the config become those of the tokenizer, and `vocab_size` is at least what it needs.
        teacher_tokenizer: of the teacher, itself or an id or path; default: the one saved with it.
        init: how the student starts: a name in `hf_dwt.growth.strategies.INITS`, or a function. "remap" copies what
            fits (the paper's), "clone" and "pad" make the student compute what its teacher does or refuse, "auto"
            takes the first exact one that succeeds, else "remap" with its measured error. A function changes the
            student in place and returns the `Source` of each parameter, or an `Outcome` (both in
            `hf_dwt.growth.report`); `INITS[name](student, teacher)` may be part of it.
        rest: what "remap" leaves where nothing was copied: a name in `RESTS`, or a function of the whole parameter.
        new_rows: what the rows of new tokens hold: a name in `NEW_ROWS`, or a function of the model's own
            initialisation of the new rows and of the old rows.
        depth: which layers new ones are made from: "append" and "interleave" add identity layers where `init` is
            exact; "stack", "repeat_each" and "repeat_last" (the paper's) copy layers, which is not. None is the rule
            that `init` has. What a config lists per layer goes with its layer.
        symmetry: of "clone": how much the shares of copies differ; at 0 copies stay copies however long they train.
        seed: of all that is random. The global random state is neither read nor changed.
        **from_pretrained_kwargs: how to load the teacher: revision, dtype, token, subfolder, trust_remote_code, ...

    Returns:
        a stock transformers model on the CPU, in eval mode; `growth_report` says where each parameter comes from.

    Raises:
        GrowthError: in words that say what to do instead; several problems at once as `SetupError`.
    """
    return plan_growth(*args, **kwargs).apply()
