"""Training any router from a dataset: one function, whatever the kind."""

from distill.config import (
    AnyRouterConfig,
    DecoderConfig,
    EncoderConfig,
    MajorityConfig,
    RnnConfig,
    TfidfConfig,
)
from distill.training.job import Job, Parts, Trained, require_trackers

__all__ = ["Job", "Parts", "Trained", "train"]


def train(config: AnyRouterConfig, job: Job) -> Trained:
    """Train the router that `config` describes.

    Raises:
        DatasetError: nothing in the training part that this kind can learn from.
        ModelError: the base model cannot be had.
        MissingExtraError: a tracker is not installed.
    """
    require_trackers(job.trackers)
    # Imported by kind: counting decisions must not cost the seconds that transformers takes.
    match config:
        case MajorityConfig() | TfidfConfig():
            from distill.training.baselines import train_baseline  # noqa: PLC0415

            return train_baseline(config, job)
        case RnnConfig():
            from distill.training.classify import train_rnn  # noqa: PLC0415

            return train_rnn(config, job)
        case EncoderConfig(catalogue="open"):
            from distill.training.open_catalogue import train_open_encoder  # noqa: PLC0415

            return train_open_encoder(config, job)
        case EncoderConfig():
            from distill.training.classify import train_encoder  # noqa: PLC0415

            return train_encoder(config, job)
        case DecoderConfig():
            from distill.training.sft import train_decoder  # noqa: PLC0415

            return train_decoder(config, job)
