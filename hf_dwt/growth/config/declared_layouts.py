"""What growing axes are made of, of architectures where that cannot be found: data, no logic."""

Blocks = tuple[str | int, ...]

_MAMBA: dict[str, Blocks] = {
    r"mamba\.in_proj\.": ("inner", "inner", "groups*state", "groups*state", "ssm_heads"),
    r"mamba\.conv1d\.": ("inner", "groups*state", "groups*state"),
}
_MAMBA2: dict[str, Blocks] = {
    r"mixer\.in_proj\.": ("inner", "inner", "groups*state", "groups*state", "ssm_heads"),
    r"mixer\.conv1d\.": ("inner", "groups*state", "groups*state"),
}
LAYOUTS: dict[str, dict[str, Blocks]] = {
    "bamba": _MAMBA,
    "bloom": {r"query_key_value\.": ("heads@3*head",), r"self_attention\.dense\.weight:1": ("heads@head",)},
    "blt": {r"patch_embedding_projection\.weight:0|token_embedding_projection\.weight:1": (2,)},
    "canine": {
        r"\w+_embeddings\.weight:1|LayerNorm\.\w+:0|(query|key|value|intermediate\.dense|pooler\.dense)\.weight:1"
        r"|(output\.dense|conv)\.\w+:0|conv\.weight:1": ("hidden/num_hash_functions",),
        r"projection\.conv\.weight:1": ("hidden/num_hash_functions",) * 2,
    },
    "codegen": {r"attn\.qkv_proj\.weight:0": (12,), r"attn\.out_proj\.weight:1": (4,)},
    "convbert": {r"attention\.output\.dense\.weight:1": (2,)},
    "deepseek_v4": {
        r"self_attn\.q_b_proj\.weight:0": ("query/o_groups",),
        r"sinks": ("heads/o_groups",),
        r"o_a_proj\.weight:1": (1,),
        r"fn:1": ("hidden^hc_mult",),
        r"gate_up_proj:1": ("ffn", "ffn"),
    },
    "diffllama": {r"self_attn\.[qkv]_proj\.\w+:0": (2,)},
    "funnel": {r"r_kernel:0": ("hidden/2@sines",) * 2},
    "falcon": {r"query_key_value\.": ("query", "head", "head")},
    "falcon_h1": _MAMBA,
    "gpt_bigcode": {r"attn\.c_attn\.": ("query", "head", "head")},
    "granitemoehybrid": _MAMBA,
    "inkling2_text": {r"sconv\.weight_proj\.weight:0": (1,)},
    "layoutlmv3": {
        r"(word|type|position)_embeddings\.weight:1|pos_embed:2|cls_token:2|[Nn]orm\.\w+:0|embed\.proj\.\w+:0"
        r"|(query|key|value|intermediate\.dense|classifier\.dense)\.weight:1|output\.dense\.\w+:0": (
            *("coordinate_size",) * 4,
            *("shape_size",) * 2,
        ),
    },
    "lilt": {r"box_linear_embeddings\.weight:1": (6,), r"layout_": (1,)},
    "mamba2": _MAMBA2,
    "mobilebert": {
        r"embedding_transformation\.weight:1": (3,),
        r"predictions\.dense\.weight:0": ("hidden-embedding_size",),
        r"transform\.\w+\.\w+:0": ("embedding_size", "hidden-embedding_size"),
    },
    "mobilevitv2": {r"qkv_proj\.convolution\.\w+:0": ("stays", "grows/2")},
    "mpt": {r"attn\.Wqkv\.": ("heads@head",) * 3, r"attn\.out_proj\.weight:1": ("heads@head",)},
    "nemotron_h": _MAMBA2,
    "qwen4_exp_text": {
        r"hc_norm\.|weight_down\.weight:1|weight_up\.weight:0|inject_weight\.weight:1": ("hidden^hc_count",)
    },
    "voxtral_realtime": {r"ada_rms_norm\.linear1\.weight:1": ("hidden/2@sines",) * 2},
    "xlnet": {r"rel_attn\.r:0": ("hidden/2@sines",) * 2},
    "zaya": {
        r"[qk]_proj\.\w+:0|o_proj\.weight:1|temp:0": (2,),
        r"conv_qk_\w+\.\w+:0": ("query/2", "key/2"),
        r"v_proj_\w+\.\w+:0": (1,),
    },
    "perceiver": {r"decoding_cross_attention.*(value\.\w+:0|output\.dense\.weight:1)": (8,)},
    "zamba": {r"mamba\.in_proj\.": (1,), r"transf\.(input_layernorm\.weight:0|self_attn\.[qkv]_proj\.weight:1)": (2,)},
    "zamba2": {**_MAMBA, r"former\.(input_layernorm\.weight:0|self_attn\.[qkv]_proj\.weight:1)": (2,)},
}
"""Model type -> pattern of a parameter's name, or of name:dimension -> what its growing axis is made of, tried first.

Names of sizes in order: "query" = heads * head_dim, "key" = key/value heads * head_dim, "ffn", "hidden", any attribute
of the config, products such as "2*state_size", shares such as "query/2", "hidden^n", "heads@head" (see `layouts`); or
(n,) for n equal blocks. Third parties add theirs by `declare`."""

STATE_SPACE: dict[str, tuple[str, ...]] = {
    "inner": ("mamba_d_ssm", "mamba_expand", "expand"),
    "ssm_heads": ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads"),
    "state": ("ssm_state_size", "mamba_d_state", "state_size"),
    "groups": ("n_groups", "mamba_n_groups", "mamba_ngroups"),
}
"""Size of a state-space layer -> the attributes that hold it; an "expand" is a multiple of the hidden size."""

SSM_WIDTHS = ("mamba_head_dim", "mamba_d_head", "mamba_headdim", "head_dim")
"""Attributes that hold the width of its heads."""
