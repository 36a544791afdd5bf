"""What a `Trainer` puts on the hub: a model card of the run, the model at its end, checkpoints on the way.

Arguments are those of `transformers` 5.23 (`push_to_hub`, `hub_strategy`, …). Uploads of checkpoints run beside the
training, each in one commit, of files that no later save can take away. One that fails is a warning, and training goes
on; if the hub then still lacks the last save at the end of the run, it is uploaded again, and now an error is raised.
The reference never tells of an upload on the way that failed; and with hub_strategy="end" its `train` uploads nothing,
where this one uploads the model.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from minihf.checkpoints.card import FILE_NAME, add_tags, is_ours, listed
from minihf.checkpoints.publish import explained, files_in, read_card, upload
from minihf.training.callbacks import TrainerCallback
from minihf.training.card import card_of_run
from minihf.training.restoring import OPTIMIZER, SCALER, SCHEDULER, STATE

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from minihf.training.trainer import Trainer

logger = logging.getLogger(__name__)

PUSHING = ".minihf-pushing-"  # what a killed run may leave


# The repository


def init_hf_repo(trainer: "Trainer", token: str | None = None, private: bool | None = None) -> None:
    """Make the repository `hub_model_id`, or one called as `output_dir`, where there is none.

    With `push_to_hub` in the arguments it is done at once: who may not upload is told before the training.
    """
    from huggingface_hub import HfApi

    args = trainer.args
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    private = args.hub_private_repo if private is None else private
    if trainer.is_world_process_zero():
        with explained(name):
            made = HfApi(token=token or args.hub_token).create_repo(name, private=private, exist_ok=True)
        trainer.hub_model_id = made.repo_id


def push_to_hub(
    trainer: "Trainer",
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    **facts: Any,
) -> "CommitInfo | Future | None":
    """Save the model, the tokenizer and the model card in `output_dir`, and upload what is there, save checkpoints.

    Args:
        trainer: whose method this is.
        commit_message: of the one commit that it is.
        blocking: False uploads beside what comes next, and gives a future.
        token: None: `hub_token`, else the one you logged in with, or HF_TOKEN.
        revision: the branch; None: `hub_revision`, else main.
        private: whether others cannot see a repository that is made; None: `hub_private_repo`.
        facts: `create_model_card`'s arguments.

    Returns:
        Which commit it is; in all processes but the first, None.

    Raises:
        As `PushToHubMixin.push_to_hub`. What is saved in `output_dir` is there in any case.
    """
    args = trainer.args
    trainer.tell("on_push_begin")
    if trainer.hub_model_id is None:
        trainer.init_hf_repo(token=token, private=private)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    name = (args.hub_model_id or Path(args.output_dir).absolute().name).rsplit("/", 1)[-1]
    trainer.create_model_card(**{"model_name": name, **facts})
    if trainer.push_in_progress is not None:
        trainer.push_in_progress.result()
    folder = Path(args.output_dir)
    files = {name: path for name, path in files_in(folder).items() if not is_left_out(name)}

    def push() -> "CommitInfo":
        return upload(
            files,
            trainer.hub_model_id,
            commit_message=commit_message or "End of training",
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            card=lambda repo_id: read_card(folder / FILE_NAME),
            renew_card=True,
        )

    if blocking:
        return push()
    pool = ThreadPoolExecutor(1)
    future = pool.submit(push)
    pool.shutdown(wait=False)
    return future


def is_left_out(name: str) -> bool:
    """Checkpoints, and what is not meant to be seen."""
    return name.startswith(("_", ".", "checkpoint-"))


class PushToHubCallback(TrainerCallback):
    """Uploads each save, as `hub_strategy` says: "every_save" the model, "checkpoint" also the whole checkpoint as
    "last-checkpoint", "all_checkpoints" also each under its own name; "end" only the model at the end of the run.

    Unless `hub_always_push`, a save is passed over while the one before it is still on its way.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="push-to-hub")
        self.lacking: Path | None = None  # the last save, as long as the hub does not have it

    def on_init_end(self, args, state, control, **kwargs):
        self.trainer.init_hf_repo()

    def on_train_begin(self, args, state, control, **kwargs):
        self.lacking = None
        for left in Path(args.output_dir).glob(f"{PUSHING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if args.hub_strategy == "end" or not self.trainer.is_world_process_zero() or not folder.is_dir():
            return
        self.lacking, running = folder, self.trainer.push_in_progress
        if running is not None and not running.done() and not args.hub_always_push:
            return
        self.trainer.tell("on_push_begin")
        # Links to its files: the next saves may remove the checkpoint before it is uploaded.
        aside = TemporaryDirectory(prefix=PUSHING, dir=args.output_dir)
        shutil.copytree(folder, aside.name, copy_function=link, dirs_exist_ok=True)
        self.trainer.push_in_progress = self.pool.submit(self.push, folder, aside, message(args, state))

    def push(self, folder: Path, aside: TemporaryDirectory, commit_message: str) -> None:
        with aside, without_bars():
            try:
                self.upload(folder.name, Path(aside.name), commit_message)
            except Exception as error:  # whatever it is, it is no reason to stop the training
                logger.warning("%s could not be uploaded, and training goes on: %s", folder.name, error)
            else:
                self.lacking = None if self.lacking == folder else self.lacking

    def upload(self, name: str, folder: Path, commit_message: str) -> None:
        args, files = self.trainer.args, files_in(folder)
        chosen = {path: file for path, file in files.items() if not is_of_the_run(path)}
        if args.hub_strategy in ("checkpoint", "all_checkpoints"):
            place = "last-checkpoint" if args.hub_strategy == "checkpoint" else name
            chosen |= {f"{place}/{path}": file for path, file in files.items()}
        upload(
            chosen,
            self.trainer.hub_model_id,
            commit_message=commit_message,
            token=args.hub_token,
            revision=args.hub_revision,
            card=lambda repo_id: card_of_run(self.trainer, model_name=repo_id.rsplit("/", 1)[-1]),
        )

    def on_train_end(self, args, state, control, **kwargs):
        if self.trainer.push_in_progress is not None:
            self.trainer.push_in_progress.result()
        if not control.should_training_stop and state.global_step < state.max_steps:
            return  # the run is interrupted, and goes on another time
        if args.hub_strategy == "end":
            self.trainer.push_to_hub()
        elif self.lacking is not None and self.lacking.is_dir():
            self.upload(self.lacking.name, self.lacking, message(args, state))
            self.lacking = None


@contextmanager
def without_bars() -> Iterator[None]:
    """The library's bars of an upload would be drawn over the training's own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()


def message(args: Any, state: Any) -> str:
    place = f"step {state.global_step}" if args.save_strategy == "steps" else f"epoch {int(state.epoch)}"
    return f"Training in progress, {place}"


def link(source: str, target: str) -> None:
    """Another name of a file, which takes no room; a copy where the disk knows no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_of_the_run(name: str) -> bool:
    """A file of a checkpoint from which a run goes on, and no part of the model."""
    return name in (OPTIMIZER, SCHEDULER, SCALER, STATE) or name.startswith("rng_state")


# The card


def create_model_card(
    trainer: "Trainer",
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> None:
    """Write the model card, `README.md` in `output_dir`: the model, its data, its scores, its settings.

    One that somebody has written stays, and gets the tags.

    Args:
        trainer: whose method this is.
        language: of the texts, such as "en".
        license: None: that of the checkpoint it began as, if the hub tells it.
        tags: to find it by.
        model_name: the title; None: the folder's name.
        finetuned_from: the hub name of the checkpoint it began as; None: what it was loaded from.
        tasks: the hub's names of what it does; None: by the class of the model.
        dataset_tags, dataset, dataset_args: ids, names and configurations of the data sets; None: by the data.
    """
    path = Path(trainer.args.output_dir, FILE_NAME)
    if not trainer.is_world_process_zero():
        return
    card = read_card(path) if path.exists() else None
    kept = listed(card.data.tags) if card else []
    if card is None or is_ours(card):
        facts = language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
        card = card_of_run(trainer, *facts)
    add_tags(card, [*kept, *listed(tags)]).save(path)
