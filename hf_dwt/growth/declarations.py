"""What architectures call their sizes and how they fuse their weights: data, no logic.

A config class that says itself what it renames (`attribute_map`) is asked first; this table adds what it does not say.
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
}
"""Size -> the config attributes that hold it. An encoder-decoder holds some twice; they grow by one ratio."""

FOLLOWS_HIDDEN = ("embedding_size", "word_embed_proj_dim")
"""Attributes that stay as wide as the hidden size where the teacher's are: else a projection without a source appears.
Where they differ from it (ELECTRA small, ALBERT) they are kept."""

FUSED: dict[str, tuple[str, ...]] = {
    "Wi": ("ffn", "ffn"),
    "Wqkv": ("query", "query", "query"),
    "c_attn": ("query", "query", "query"),
    "gate_up_proj": ("ffn", "ffn"),
    "qkv_proj": ("query", "key", "key"),
}
"""Linear module -> the blocks that its output is made of: query = heads * head_dim, key = key/value heads * head_dim,
ffn = intermediate_size. Used only where the sizes add up to the axis; every other axis is one block."""
