"""Training any router from a dataset: one function, whatever the kind."""

from distill.config import (
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    LearnedConfig,
    MajorityConfig,
    RnnConfig,
    TfidfConfig,
)
from distill.training.job import Job, Parts, Trained, require_trackers

__all__ = ["Job", "Parts", "Trained", "train"]


def train(config: LearnedConfig, job: Job) -> Trained:
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
            from distill.routers.rnn import RnnRouter  # noqa: PLC0415
            from distill.training.classify import train_from_scratch  # noqa: PLC0415

            return train_from_scratch(config, RnnRouter, job)
        case AttentionConfig():
            from distill.routers.attention import AttentionRouter  # noqa: PLC0415
            from distill.training.classify import train_from_scratch  # noqa: PLC0415

            return train_from_scratch(config, AttentionRouter, job)
        case EncoderConfig():
            if config.catalogue == "open":
                from distill.training.open_catalogue import train_open_encoder  # noqa: PLC0415

                trained = train_open_encoder(config, job)
            else:
                from distill.training.classify import train_encoder  # noqa: PLC0415

                trained = train_encoder(config, job)
            if config.arguments == "none":
                return trained
            from distill.training.arguments import with_arguments  # noqa: PLC0415

            return with_arguments(trained, config, job)
        case DecoderConfig():
            from distill.training.sft import train_decoder  # noqa: PLC0415

            return train_decoder(config, job)
