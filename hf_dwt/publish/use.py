"""How a card shows the use of a model: what makes its inputs, and lines that run it."""

from pathlib import Path

from .run_record import RunRecord

_GENERATE = """inputs = tokenizer("In the beginning", return_tensors="pt")
print(tokenizer.batch_decode(model.generate(inputs["input_ids"], max_new_tokens=20)))"""
# task -> lines that run the model, once it and its tokenizer are loaded
_USE = {
    "fill-mask": """inputs = tokenizer(f"A {tokenizer.mask_token} of text.", return_tensors="pt")
print(tokenizer.batch_decode(model(**inputs).logits.argmax(-1)))""",
    "text-generation": _GENERATE,
    "text2text-generation": _GENERATE,
    "text-classification": """inputs = tokenizer("Some text.", return_tensors="pt")
{shown}""",
    "image-classification": """inputs = processor(Image.open("picture.png"), return_tensors="pt")
{shown}""",
    "multiple-choice": """answers = ["One answer.", "Another one."]
inputs = tokenizer(["Some text."] * len(answers), answers, padding=True, return_tensors="pt")
inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
print(answers[int(model(**inputs).logits.argmax())])""",
    "question-answering": """inputs = tokenizer("A question?", "Some text.", return_tensors="pt")
outputs = model(**inputs)
start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))""",
    "token-classification": """inputs = tokenizer("Some text.", return_tensors="pt")
print([model.config.id2label[int(label)] for label in model(**inputs).logits[0].argmax(-1)])""",
}
# what a classifier predicts -> the line that prints it
_SHOWN = {
    "class": "print(model.config.id2label[int(model(**inputs).logits.argmax())])",
    "label": "print([model.config.id2label[int(label)] for label in (model(**inputs).logits[0] > 0).nonzero()])",
    "number": "print(model(**inputs).logits[0].tolist())",
}
# what makes inputs -> its class, and the file by which it is known to be saved
_READERS = {
    "tokenizer": ("AutoTokenizer", "tokenizer_config.json"),
    "processor": ("AutoImageProcessor", "preprocessor_config.json"),
}


def use_of(record: RunRecord) -> str | None:
    """Lines that run the model."""
    lines = _USE.get(record.model.get("task", ""))
    shown = _SHOWN.get(record.model.get("outcome", "class"), "")
    return lines.replace("{shown}", shown) if lines else None


def reader_of(record: RunRecord, folder: str | Path | None) -> tuple[str, str] | None:
    """What makes the model's inputs, and its class; None where it is not saved beside the model."""
    name = "processor" if record.model.get("task") == "image-classification" else "tokenizer"
    kind, file = _READERS[name]
    return (name, kind) if folder is None or (Path(folder) / file).is_file() else None
