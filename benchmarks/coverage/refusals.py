"""Why types are refused, at all or some sizes: data for readers of the page; growth reads none of it."""

_SINUS = "Its sinusoidal position table is computed from the width: the wider table holds other frequencies."
_NORMED_INPUT = "It normalises its embeddings, so that no weight gives a new channel the mean of the others."
_POST_NORM = "Post-norm: each half of a layer ends in a norm, whose new channels do not carry the mean of the others."
_PACKAGE = "It cannot be built without the package {}, and was not measured."
_IN_CODE = "Deeper: the number of its layers stands in its code, in no config."
_SINES = "Its positions are sines of the width: times 1.5 half of their frequencies are others."
_ROUNDED = "It rounds its widths: where twice a width is not twice the rounded one, channels are no copies."
_RANK = (
    "The rank of its time steps is a sixteenth of the width, rounded up, unless it is another, and normalised: where "
    "it does not double, it has no whole copies."
)
_DRAFTS = "It drafts for another model, whose states it reads: alone it predicts nothing."
WHY_NOT: dict[str, str] = {
    **dict.fromkeys(("ctrl", "fsmt", "m2m_100", "musicgen", "musicgen_melody", "nllb-moe", "pegasus_x"), _SINUS),
    **dict.fromkeys(("seamless_m4t", "seamless_m4t_v2", "xglm"), _SINUS),
    **{
        name: _PACKAGE.format(x)
        for name, x in (("dinat", "natten"), ("gemma3n", "timm"), ("layoutlmv2", "detectron2"))
    },
    **dict.fromkeys(("mobilenet_v1", "mobilenet_v2", "mobilevit"), _IN_CODE),
    **dict.fromkeys(("funnel", "xlnet"), _SINES),
    "convbert": _POST_NORM + " Half of its heads are convolutions: with an odd number heads do not keep their width.",
    "ibert": _POST_NORM,
    **dict.fromkeys(
        ("nemotron_h", "nemo_speechlm"), "Deeper: its config lists the kinds of its layers, not their number."
    ),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), _DRAFTS),
    **dict.fromkeys(("modernbert", "modernbert-decoder"), _NORMED_INPUT + " So does its head behind an activation."),
    "beam": "Layer i weighs what it reads by a constant of i, so that no layer is an identity layer.",
    "bit": "Its convolutions divide each filter by the deviation of its own weights, which new zeros change.",
    "bloom": _NORMED_INPUT,
    "exaone4": (
        "Norms within its layers share the eps in its config, and its layers read the stream behind no norm: to scale "
        "it up instead, one would have to know what reads it."
    ),
    "fnet": "A Fourier transform along the channels mixes all of them.",
    "deepseek_v4": "Each layer mixes its streams by a matrix without zeros, so that none leaves the layer unmixed.",
    "efficientnet": "The blocks of all stages are one list, in which a longer stage moves those behind it.",
    **dict.fromkeys(("esmc", "minicpm3"), "Each layer's share of the stream is scaled by the depth's square root."),
    "mobilebert": (
        "A masked LM's head normalises behind an activation, so that no weight gives new channels the mean of the "
        "others."
    ),
    "neomme": "Its tied head reads behind a norm without a weight, for which its embeddings may not become smaller.",
    "perceiver": (
        "A masked LM's tied head reads behind no norm, whose weight could halve the sum of two copies. Of an image "
        "model the cross-attention stays as wide as the channels of images: width x 2 is exact if "
        "num_cross_attention_heads stays too. A classifier's decoder has one head as wide as the latents, whose "
        "scores new channels enter."
    ),
    "pp_lcnet": (
        "Its layers have no path around them, and the first of a stage changes the number of channels. " + _ROUNDED
    ),
    **dict.fromkeys(("levit", "mobilevitv2"), _ROUNDED),
    **dict.fromkeys(("falcon_mamba", "jamba"), _RANK),
    "olmo_hybrid": "The width of its linear heads follows from the hidden size and their number unless it is another.",
    "zaya": "Half of its values are of the token before: of an odd number of key/value heads one is cut in two.",
    "prophetnet": "Its predicting stream lays relative positions out place by place and reads them head by head.",
    "reformer": "Its last norm takes the mean of two streams at once, of which new channels carry that of their own.",
    "recurrent_gemma": "It multiplies embeddings by the square root of the width, rounded to bfloat16.",
    "squeezebert": (
        "Deeper: its encoder calls the forward of its layers itself, past the hooks by which layers are watched."
    ),
    "swiftformer": (
        "It adds queries that are normalised over the width to a projection, whose weight and bias would need "
        "different gains."
    ),
    "textnet": "Every path through its layers is a batch norm, which hands nothing on at a weight of 0.",
    "timm_wrapper": "Its config names an architecture of timm and stores no width.",
    "voxtral_realtime": "Its embedding of time is computed from the width: at times 1.5 it holds other frequencies.",
}
"""Model type -> why its architecture is refused."""
