"""Tokens per second of a language model's distillation on one CPU thread, all sides in one go, at
equal models, batches and windows.

    python experiments/benchmarks/step_language.py             # about two minutes

Sides: the *bound* is the student's own forward, label loss, backward and update on a batch that
stays where it is; *bank* and *online* are this package's training loop with stored teacher outputs
(the 64 largest of each position) and with the teacher in every step; *trainer* is transformers'
Trainer with the teacher in its loss (`pip install accelerate`); *gkd* is TRL's GKDTrainer
(`pip install trl==1.16.0`) off-policy, `lmbda=0`, by which it reads the same windows and draws no
text; it has no label loss. Sides whose package is missing are left out.

Models are the transformers library's GPT-2 on every side, of about the size of the shipped
`language_model.yaml`. Rounds go round all sides; the median round counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step import alone, by_hand, fresh, medians, ours, timed
from torch import Tensor, nn
from torch.nn import functional as F

from pdo_search.base.columns import Taught
from pdo_search.config import parse_experiment, resolve
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.context import Context
from pdo_search.distill.ladder import Ladder
from pdo_search.distill.losses import IN_TRAIN, terms
from pdo_search.distill.teacher import trained_teacher
from pdo_search.models.build import placed
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Batch, Split, Task, mask_of, target_of

VOCABULARY, LENGTH, BATCH = 1_024, 64, 32
DOCUMENT = 8 * LENGTH
SPECIAL = ("<pad>", "<unk>", "<end>")
FILE = "tokenizer.json"
CPU = torch.device("cpu")


def documents(steps: int) -> list[tuple[str, str]]:
    """(Name, text) of documents of words drawn evenly, each cut into full windows: what a text says
    does not change how long it takes."""
    generator = torch.Generator().manual_seed(0)
    # A mark is put before each document's words.
    shape = (round(BATCH * LENGTH * steps / 0.7 / DOCUMENT), DOCUMENT - 1)
    words = torch.randint(len(SPECIAL), VOCABULARY, shape, generator=generator)
    return [(f"{k:05}", " ".join(f"w{i:04}" for i in row)) for k, row in enumerate(words.tolist())]


def write_tokenizer(folder: str) -> None:
    """A tokenizer whose tokens are the words of ``documents``."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {name: k for k, name in enumerate(SPECIAL)}
    ids |= {f"w{k:04}": k for k in range(len(SPECIAL), VOCABULARY)}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(f"{folder}/{FILE}")


def gpt2(width: int, depth: int, spread: float) -> dict[str, Any]:
    """A model's section. ``spread`` is that of its first weights."""
    config = {
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": width,
        "n_layer": depth, "n_head": 4, "initializer_range": spread,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
    return {"arch": "transformers", "args": {"config": config}}


def configured(steps: int, tokenizer: str) -> TrialConfig:
    """A trial whose epoch is about so many steps."""
    tree = {
        "name": "step_language",
        "task": {
            "kind": "language_model",
            "data": {"source": "step_language:documents", "args": {"steps": steps}},
            "tokenizer": {"path": tokenizer, "length": LENGTH},
            "splits": {"transfer": 0.1, "validation": 0.1, "test": 0.1},
            "bank": "top", "bank_tokens": 64,
        },
        # Usual first weights, of 0.02, would find all tokens equally likely.
        "teacher": {**gpt2(128, 4, 0.5), "train": {"epochs": 1, "lr": 1e-6, "batch_size": BATCH}},
        "student": gpt2(64, 1, 0.02),
        "trial": {
            "epochs": 100, "init_epochs": 0, "num_stages": 1, "temperature": 1.0,
            "loss": {"kl": 0.7, "avg": 0.5, "init": 0.5, "reduce": "position"},
            "optimizer": {"kind": "adamw", "lr": 1e-3, "batch_size": BATCH},
        },
    }  # fmt: skip
    loaded = parse_experiment(tree, file=Path(__file__), base_dir=Path(__file__).parent)
    return resolve(loaded.experiment, {})


def first_batch(task: Task) -> Batch:
    """Of the train split, in its order."""
    held = task.examples(Split.TRAIN).batch(slice(BATCH))
    return {**held, IN_TRAIN: torch.ones(BATCH, dtype=torch.bool)}


def bound(config: TrialConfig, task: Task, steps: int) -> Callable[[], int]:
    """The student alone on a resident batch."""
    student = placed(fresh(config, task), CPU).train()
    batch = first_batch(task)
    wanted = batch[target_of("token")].flatten()

    def loss_of() -> Tensor:
        return F.cross_entropy(student(batch)["token"].flatten(0, 1), wanted)

    return alone(config, student, loss_of, steps)


def theirs(model: Any) -> Any:
    """The same body as a language model of the transformers library, its head tied as ours is."""
    from transformers import GPT2LMHeadModel

    whole = GPT2LMHeadModel(model.body.model.config)
    whole.transformer = model.body.model
    whole.tie_weights()
    return whole


def columns(task: Task, *, shifted: bool) -> dict[str, Tensor]:
    """The train split's windows as the library's trainers take them: labels are the wanted tokens;
    or the tokens themselves, for a trainer that shifts them by itself."""
    held = task.examples(Split.TRAIN).batch()
    return {
        "input_ids": held["tokens"],
        "attention_mask": held[mask_of("tokens")].long(),
        "labels": held["tokens" if shifted else target_of("token")],
    }


def settings(config: TrialConfig, folder: str) -> dict[str, Any]:
    """One pass with the same kind of update, in which nothing is said or saved."""
    optimizer = config.recipe.optimizer
    return {
        "output_dir": folder, "num_train_epochs": 1, "per_device_train_batch_size": BATCH,
        "learning_rate": optimizer.lr, "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip_norm, "optim": "adamw_torch_fused", "use_cpu": True,
        "dataloader_drop_last": True, "dataloader_pin_memory": False, "report_to": "none",
        "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def trainer(config: TrialConfig, task: Task, teacher: nn.Module, folder: str) -> Any:
    """The library's trainer, its loss written by hand."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    taught_by = theirs(teacher).eval()
    held = columns(task, shifted=False)
    rows = [dict(zip(held, row, strict=True)) for row in zip(*held.values(), strict=True)]

    class Distiller(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
            wanted = inputs.pop("labels")
            with torch.no_grad():
                taught = taught_by(**inputs).logits
            logits = model(**inputs).logits
            return by_hand(logits.flatten(0, 1), taught.flatten(0, 1), wanted.flatten(), 1.0)

    student, args = theirs(fresh(config, task)), TrainingArguments(**settings(config, folder))
    return Distiller(student, args, train_dataset=rows, data_collator=default_data_collator)


def gkd(config: TrialConfig, task: Task, teacher: nn.Module, folder: str) -> Any:
    """TRL's, on given windows alone, with the divergence that ours has and no activation computed
    twice."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, default_data_collator
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    own = {"lmbda": 0.0, "beta": 0.0, "bf16": False, "gradient_checkpointing": False}
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"}
    held = {name: column.numpy() for name, column in columns(task, shifted=True).items()}
    return GKDTrainer(
        theirs(fresh(config, task)),
        theirs(teacher),
        GKDConfig(**settings(config, folder), **own),
        data_collator=default_data_collator,
        train_dataset=Dataset.from_dict(held).with_format("torch"),
        processing_class=PreTrainedTokenizerFast(tokenizer_file=f"{folder}/{FILE}", **marks),
    )


def speed_of(made: Any) -> Callable[[], float]:
    """Windows per second of a trainer's pass, by its own clock, which starts at the first step."""
    from transformers import PrinterCallback

    made.remove_callback(PrinterCallback)

    def speed() -> float:
        seconds = made.train().metrics["train_runtime"]
        return float(made.state.global_step * BATCH / seconds)

    return speed


def losses(config: TrialConfig, task: Task, teacher: nn.Module, others: dict[str, Any]) -> str:
    """What sides with a teacher minimise on the same windows, before anything is learnt."""
    held, loss = first_batch(task), config.recipe.loss
    with torch.no_grad():
        outputs, taught = fresh(config, task)(held), {"token": Taught(teacher(held)["token"])}
        found = terms(task, loss, outputs, held, taught=taught, weights={})
        said = {"online": loss.kl * found.kl + loss.init * found.init, "its KL alone": found.kl}
        for side, made in others.items():
            batch = made.data_collator([made.train_dataset[k] for k in range(BATCH)])
            said[side] = made.compute_loss(made.model, batch)
    return ", ".join(f"{side} {value.item():.4f}" for side, value in said.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=32, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pdo-step-") as folder:
        write_tokenizer(folder)
        config = configured(given.steps, folder)
        task = build_task(config.task, Path(__file__).parent)
        on = Context(folder, CPU)
        full = trained_teacher(task, config.teacher, on, seed=0)
        ladder = Ladder(task, full, config.recipe, on, seed=0)
        teacher = ladder.model(0)
        others = {
            make.__name__: make(config, task, teacher, folder)
            for make, package in ((trainer, "accelerate"), (gkd, "trl"))
            if importlib.util.find_spec(package)
        }
        said = losses(config, task, teacher, others)
        sides = {
            "bound": timed(bound(config, task, given.steps), CPU),
            "bank": timed(ours(config, ladder, "stored"), CPU),
            "online": timed(ours(config, ladder, "online"), CPU),
            **{side: speed_of(made) for side, made in others.items()},
        }
        speeds = medians(sides, given.rounds)
    print("| side | tokens/s | of the bound | bank is faster by |\n|---|---|---|---|")
    for side, value in speeds.items():
        share, faster = value / speeds["bound"], speeds["bank"] / value
        print(f"| {side} | {value * LENGTH:,.0f} | {share:.0%} | {faster:.2f} |")
    print(f"\nLoss of the first batch, untrained: {said}")


if __name__ == "__main__":
    main()
