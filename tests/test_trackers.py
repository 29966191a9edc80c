"""The picture of a run is an image in each tracker, read back by the tracker's own reader."""

from pathlib import Path
from typing import Any

import pytest

from .models import tiny
from .training import ragged_examples, trainer


def run_with(tracker: str, out: Path, **settings: Any) -> bytes:
    """Train two steps under a tracker; the picture in `output_dir`."""
    more = {"eval_dataset": ragged_examples(8)}
    evaluating: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "report_to": tracker}
    trainer(tiny("bert"), tiny("bert", seed=1), out, more=more, **evaluating, **settings).train()
    return (out / "curves.png").read_bytes()


def pixels(png: bytes) -> tuple[tuple[int, int], bytes]:
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(png)).convert("RGB")
    return image.size, image.tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = run_with("tensorboard", tmp_path)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    (image,) = events.Images("curves")
    assert image.step == 2 and pixels(image.encoded_image_string) == pixels(picture)
    assert [entry.step for entry in events.Scalars("train/hard_loss")] == [1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trackio_has_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    picture = run_with("trackio", tmp_path / "out", project="around", run_name="one")
    logs = SQLiteStorage.get_logs("around", "one")
    (entry,) = [log["curves"] for log in logs if "curves" in log]
    assert pixels((Path(utils.MEDIA_DIR) / entry["file_path"]).read_bytes()) == pixels(picture)
