r"""A training of your own around a Lightning module: your `LightningModule` and `Trainer`, our search.

    pip install lightning
    nas-optuna run --study lit --trials 20 --sampler tpe --pruner median \
        --objective val_accuracy:maximize --set evaluator.name=examples/lightning_evaluator.py:LightningEvaluator

Lightning trains to the end when it is asked to fit, and a search wants to look after each epoch. So each epoch is a fit
that goes on from the checkpoint of the epoch before, which is also what makes the training survive a kill.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nas_optuna as nas
from nas_optuna.execution.evaluator import EvaluatorContext, Measurement

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")


class Classifier(lightning.LightningModule):
    """What you have already: a module with its training and validation step."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Give the loss of one batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Log the share of right answers."""
        images, labels = batch
        self.log("val_accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class Stopper(lightning.Callback):
    """Ends the training between two steps when the search is asked to stop."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def on_train_batch_start(self, *_: Any) -> None:
        """Look before each step."""
        if self.stop():
            raise nas.Interrupted


class LightningEvaluator:
    """Train each architecture by Lightning on handwritten digits.

    Args:
        context: The study's space, and where to train.
        epochs: Passes over the images.
        learning_rate: Of AdamW.
    """

    def __init__(self, context: EvaluatorContext, *, epochs: int = 4, learning_rate: float = 3e-3) -> None:
        self.steps = epochs
        self.identity = f"lightning on digits, {epochs} epochs, learning rate {learning_rate}"
        self.space = context.space(in_channels=1, outputs=10, input_size=8)
        self._learning_rate = learning_rate
        self._accelerator = "gpu" if context.device.type == "cuda" else "cpu"
        data = nas.load_data("digits")
        self._train, self._validation = (
            TensorDataset(part.images.float() / 16, part.labels.long()) for part in (data.train, data.validation)
        )

    def evaluate(
        self, architecture: nas.Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        """Yield the validation accuracy after each epoch; go on from what an earlier process left in `resume`."""
        torch.manual_seed(0)
        module = Classifier(self.space.build(architecture), self._learning_rate)
        with tempfile.TemporaryDirectory() as temporary:
            folder = resume or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint = None
            for step in range(1, self.steps + 1):
                last = folder / f"epoch-{step}.ckpt"
                started = time.perf_counter()
                if last.exists():
                    accuracy = torch.load(last, weights_only=True)["val_accuracy"]
                else:
                    accuracy = self._epoch(module, step, checkpoint, last, stop)
                checkpoint = last
                yield Measurement(step, {"val_accuracy": accuracy}, seconds=time.perf_counter() - started)

    def _epoch(
        self, module: Classifier, step: int, checkpoint: Path | None, last: Path, stop: Callable[[], bool]
    ) -> float:
        trainer = lightning.Trainer(
            max_epochs=step,
            accelerator=self._accelerator,
            devices=1,
            callbacks=[Stopper(stop)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        order = torch.Generator().manual_seed(step)
        train = DataLoader(self._train, 64, shuffle=True, generator=order)
        validation = DataLoader(self._validation, len(self._validation))
        trainer.fit(module, train, validation, ckpt_path=checkpoint, weights_only=checkpoint is not None)
        accuracy = float(trainer.callback_metrics["val_accuracy"])
        trainer.save_checkpoint(last.with_suffix(".new"))
        state = torch.load(last.with_suffix(".new"), weights_only=True)
        torch.save({**state, "val_accuracy": accuracy}, last.with_suffix(".new"))
        last.with_suffix(".new").replace(last)  # never half a file
        return accuracy
