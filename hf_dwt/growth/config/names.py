"""What architectures call their sizes, and how small they can be: data, no logic. How they fuse weights is in
`declared_layouts`.

The `attribute_map` of a config class comes first; this table adds what classes do not declare there.
"""

SIZES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "d_model", "n_embd", "emb_dim"),
    "num_hidden_layers": (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "encoder_layers",
        "decoder_layers",
        "num_encoder_layers",
        "num_decoder_layers",
        "depths",
    ),
    "num_attention_heads": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "num_encoder_attention_heads",
        "num_decoder_attention_heads",
    ),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv", "d_head"),
    "intermediate_size": (
        "intermediate_size",
        "d_ff",
        "d_inner",
        "dim_ff",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "feed_forward_size",
        "ffn_dim",
        "ffn_hidden_size",
        "hidden_dim",
        "n_inner",
    ),
    "vocab_size": ("vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
"""Size -> the config attributes that hold it. An encoder-decoder holds some twice; they grow by one ratio."""

SIZES_OF_TYPE: dict[str, dict[str, tuple[str, ...]]] = {
    "hrm_text": {"num_hidden_layers": ("num_hidden_layers", "num_layers_per_stack")},
    "perceiver": {
        "hidden_size": ("d_latents", "d_model"),
        "num_hidden_layers": ("num_self_attends_per_block",),
        "num_attention_heads": ("num_self_attention_heads", "num_cross_attention_heads"),
    },
}
"""Model type -> further attributes that hold a size, that the `attribute_map` of its config does not name."""

ROWS = dict.fromkeys(("musicgen_decoder", "musicgen_melody_decoder"), "num_codebooks")
"""Model type -> the attribute that holds how many rows of ids belong to one of the attention mask."""

FOLLOWS_HIDDEN = ("embedding_size", "word_embed_proj_dim", "projection_size")
"""Attributes that stay as wide as the hidden size where the teacher's are: else a projection without a source appears.
Where they differ from it (ELECTRA small, ALBERT) they are kept."""

PROPORTIONAL: dict[str, tuple[str, ...]] = {
    "": (
        "mamba_n_heads",
        "mamba_num_heads",
        "n_mamba_heads",
        "mamba_d_ssm",
        "lru_width",
        "attention_hidden_size",
        "intra_bottleneck_size",
        "true_hidden_size",
        "num_attention_heads_per_layer",
        "n_groups",
        "mamba_n_groups",
        "mamba_ngroups",
    ),
    "mobilebert": ("embedding_size",),
    "blt_local_decoder": ("hidden_size_global",),
    "blt_local_encoder": ("hidden_size_global",),
    "layoutlmv3": ("coordinate_size", "shape_size"),
    "perceiver": ("qk_channels", "v_channels"),
    "squeezebert": (
        "q_groups",
        "k_groups",
        "v_groups",
        "post_attention_groups",
        "intermediate_groups",
        "output_groups",
    ),
}
"""Model type, or "" for all -> attributes, numbers or lists of them, that grow in proportion to the hidden size.

A single group (1) stays single."""

FUSED: dict[str, tuple[str, ...]] = {
    "Wi": ("ffn", "ffn"),
    "Wqkv": ("query", "query", "query"),
    "c_attn": ("query", "query", "query"),
    "gate_up_proj": ("ffn", "ffn"),
    "qkv_proj": ("query", "key", "key"),
}
"""Linear module -> the blocks that its output is made of: query = heads * head_dim, key = key/value heads * head_dim,
ffn = intermediate_size. Used only where the sizes add up to the axis; every other axis is one block."""

STAGES = (
    "hidden_sizes",
    "embed_dim",
    "embed_dims",
    "embedding_size",
    "neck_hidden_sizes",
    "stem_channels",
    "stem_out_channels",
    "stage_in_channels",
    "stage_mid_channels",
    "stage_out_channels",
)
"""Attributes, numbers or one for each stage, that hold the widths of a model of stages, which has no hidden size."""

LAYERS_OF_STAGES = ("depths", "depth", "stage_num_blocks", "n_attn_blocks", "block_sizes", "depth_coefficient")
"""Attributes that hold their numbers of layers, lists, or what these are multiplied by."""

WITH_STAGES = (
    "num_heads",
    "num_attention_heads",
    "num_groups",
    "hidden_dim",
    "depth_multiplier",
    "width_coefficient",
    "width_multiplier",
    "scale",
)
"""What else is multiplied with them, or instead of them."""

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 40,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
"""Sizes of a proxy: different wherever a model could confuse them, and no multiples of each other."""

TINY_ATTRIBUTES: tuple[tuple[str, int | str], ...] = (
    (r"d_model|n_embd|emb_dim|dim|d_latents", "hidden_size"),
    (r"n_layers?|num_layers|(num_)?(encoder|decoder)_layers|num_blocks|depth", "num_hidden_layers"),
    (
        r"n_heads?|num_heads|(num_)?(encoder|decoder)_attention_heads|num_(self|cross)_attention_heads",
        "num_attention_heads",
    ),
    (
        r"d_ff|d_inner|dim_ff|dff|(encoder|decoder)_ffn_dim|ffn_dim|ffn_hidden_size|hidden_dim|feed_forward_size|mlp_dim",
        "intermediate_size",
    ),
    (r"n_inner", "intermediate_size"),
    (r"moe_intermediate_size|expert_ffn_hidden_size|(moe_)?shared_(experts?_)?intermediate_size", 28),
    (r"dense_intermediate_size", 52),
    (r"(moe_)?num_(local_)?experts|n_routed_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_top_?k|moe_k", 2),
    (r"n_group|num_expert_group|topk_group", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"max_window_layers", 1),
    (r"q_lora_rank", 20),
    (r"kv_lora_rank|o_lora_rank", 16),
    (r"qk_rope_head_dim", 4),
    (r"qk_nope_head_dim", 8),
    (r"v_head_dim", 10),
    (r"qk_head_dim", 12),
    (
        r"(src_|tgt_|decoder_)?vocab_size|unpadded_vocab_size|vocab_size_per_layer_input|audio_vocab_size|\w+_vocab_size",
        "vocab_size",
    ),
    (
        r"n_positions|n_ctx|max_seq_len|max_\w*positions?|max_\w*position_embeddings|context_length|model_max_length",
        "max_position_embeddings",
    ),
    (r"embedding_size|entity_emb_size|hidden_size_per_layer_input|input_embedding_size|embedding_rank", 12),
    (r"output_embedding_size", 44),
    (r"linear_num_key_heads|linear_num_heads|index_n_heads", 2),
    (r"linear_num_value_heads", 4),
    (r"linear_(key_|value_)?head_dim|index_head_dim", 8),
    (r"index_topk", 64),
    (r"mamba_n_heads|n_mamba_heads|mamba_num_heads", 8),
    (r"mamba_d_head|mamba_headdim|mamba_head_dim", 8),
    (r"num_kv_heads|kv_n_heads", "num_key_value_heads"),
    (r"mamba_d_ssm", 64),
    (r"mamba_d_state|state_size|ssm_state_size", 8),
    (r"n_groups|mamba_n_groups|mamba_ngroups", 2),
    (r"time_step_rank|mamba_dt_rank", 6),
    (r"(mamba_)?chunk_size", 8),
    (r"(audio|vision|text|encoder|backbone)_hidden_size", "hidden_size"),
    (r"intra_bottleneck_size|true_hidden_size", 24),
    (r"groups_width|(q|k|v|post_attention|intermediate|output)_groups", 4),
    (r"image_size", 16),
    (r"patch_size", 4),
    (r"sliding_window|attention_window_size|local_attention|window_size", 8),
    (r"rotary_dim", 4),
    (r"lru_width|attention_hidden_size|hidden_size_global", "hidden_size"),
)
"""Pattern of an attribute -> its value in a proxy, or the name of the size in `TINY` that it is."""

COUNTS = (
    r"(?!.*(hidden|intermediate|embedding|emb)_size)"
    r".*(expert|group|window|chunk|image|patch|layers|top_?k|moe_k|replace)"
)
"""What counts things, and is at most so large in a proxy: of one thing there is one in the proxy too."""

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TINY_OF_TYPE: dict[str, dict[str, object]] = {
    "codegen": {"n_head": 8},  # times 1.5 they have to be a multiple of 4
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "bit": {
        "num_groups": 4,
        "embedding_size": 8,
        "hidden_sizes": [64, 128, 256, 512],
    },  # a quarter of them, by 8, in groups
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "cvt": {"embed_dim": [16, 48, 96], "num_heads": [2, 6, 12]},
    "deepseek_v4": {"o_groups": 2},
    "dbrx": {"attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1},
    "efficientnet": {"image_size": 64, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hgnet_v2": {"stage_num_blocks": [1, 1, 2, 1], "stage_numb_of_layers": [2, 2, 2, 2]},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 16},
    "hiera": {"embed_dim": 16, "num_heads": [2, 4, 8, 16]},
    "hunyuan_v1_dense": {"head_dim": 12},
    "hunyuan_v1_moe": {"head_dim": 12},
    "inkling2_text": {
        "swa_num_attention_heads": 8,
        "swa_num_key_value_heads": 4,
        "swa_head_dim": 10,
        "d_rel": 6,
        "rel_extent": 16,
    },
    "layoutlmv3": {"hidden_size": 48, "coordinate_size": 8, "shape_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "levit": {"image_size": 64, "patch_size": 16},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 12},
    "nemotron": {"num_key_value_heads": 2},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5, "base_attn_unit_dims": [16, 32, 48]},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilebert": {"embedding_size": 8},
    "neomme": {"head_dim": 32, "per_layer_config": None},
    "olmo_hybrid": {"linear_num_key_heads": 4},
    "perceiver": {"num_self_attends_per_block": 2, "num_latents": 16},
    "pp_lcnet": {"scale": 0.5},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_embds": False},
    "shieldgemma2": {"yes_token_index": 3, "no_token_index": 2},
    "squeezebert": {"embedding_size": 32},
    "led": {"attention_window": 4},
    "pvt": {"hidden_sizes": [16, 32, 80, 128], "num_attention_heads": [2, 4, 10, 16]},
    "pvt_v2": {"hidden_sizes": [16, 32, 80, 128], "num_attention_heads": [2, 4, 10, 16]},
    "roc_bert": {"pronunciation_embed_dim": 20, "shape_embed_dim": 24},
    "swin": {"window_size": 2, "image_size": 64, "embed_dim": 16, "num_heads": [2, 4, 8, 16]},
    "donut-swin": {"window_size": 2, "image_size": 64, "embed_dim": 16, "num_heads": [2, 4, 8, 16]},
    "swinv2": {"window_size": 2, "image_size": 64, "embed_dim": 16, "num_heads": [2, 4, 8, 16]},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4},
    "xlnet": {"d_head": 8},
    "zaya": {"num_attention_heads": 8, "num_key_value_heads": 4},  # half of their values are of the token before
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_hidden_layers": 5,
        "layers_block_type": [*["linear_attention", "hybrid"] * 2, "linear_attention"],
        "hybrid_layer_ids": [1, 3],
    },
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "xmod": {"default_language": "en_XX"},
}
"""Model type -> values that no rule above gives."""
