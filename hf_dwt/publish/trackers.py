"""The picture of a run as an image in the trackers that report it: TensorBoard, W&B, Trackio and MLflow."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback

from .bookkeeping import Bookkeeping

IMAGE = "curves"
"""Its name in a tracker."""


def show_picture(picture: Path, step: int, callbacks: Iterable[TrainerCallback], bookkeeping: Bookkeeping) -> None:
    """Give the picture, a PNG, to each tracker that reports the run and has begun to; one that fails is left out.

    It must be shown before training ends: transformers' callbacks close their trackers then.
    """
    for callback in callbacks:
        for kind, show in _SHOW.items():
            if isinstance(callback, kind):
                with bookkeeping(f"the picture in {kind.__name__.removesuffix('Callback')}"):
                    show(callback, picture, step)


def _in_tensorboard(callback: Any, picture: Path, step: int) -> None:
    from matplotlib.image import imread

    if callback.tb_writer is not None:
        callback.tb_writer.add_image(IMAGE, imread(picture), step, dataformats="HWC")
        callback.tb_writer.flush()


def _in_wandb(callback: Any, picture: Path, step: int) -> None:
    import wandb

    if wandb.run is not None:
        wandb.log({IMAGE: wandb.Image(str(picture)), "train/global_step": step})


def _in_trackio(callback: Any, picture: Path, step: int) -> None:
    import trackio

    trackio.log({IMAGE: trackio.Image(str(picture)), "train/global_step": step})


def _in_mlflow(callback: Any, picture: Path, step: int) -> None:
    import mlflow

    if mlflow.active_run() is not None:
        mlflow.log_artifact(str(picture))  # which its page shows as an image


_SHOW: Mapping[type[TrainerCallback], Callable[[Any, Path, int], None]] = {
    TensorBoardCallback: _in_tensorboard,
    WandbCallback: _in_wandb,
    TrackioCallback: _in_trackio,
    MLflowCallback: _in_mlflow,
}
