"""Sections that say what run this is, and which rows it trains on."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.section import Section


class RunSection(Section):
    name: str = Field("vision-opd", description="Name of the run; part of its folder's name.")
    folder: Path | None = Field(
        None, description="Run folder. Default: runs/<name>-<date>-<time> beside the code."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of data order, sampling and views.")
    resume: bool = Field(
        False, description="Go on with the run in run.folder, from its newest checkpoint."
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",),
        description="Where figures go beside RUN/metrics.jsonl; wandb and mlflow are programs of "
        "their own, which a run can do without.",
    )
    trained_gib: float = Field(
        8.0,
        ge=0,
        description="GiB that RUN/trained may take: every trained trajectory, token by token, for "
        "deploy.inspect. What comes later is left out. 0: none is kept.",
    )


class DataSection(Section):
    train: Path | None = Field(
        None, description="Parquet file of samples; paths inside it are relative to its folder."
    )
    heldout: Path | None = Field(None, description="Parquet file used only to measure accuracy.")
    epochs: int = Field(1, gt=0, description="Passes over the training samples.")
    shuffle: bool = Field(True, description="Shuffle each epoch, seeded by run.seed.")
    keep_columns: tuple[str, ...] = Field(
        (),
        description="Other columns of train, text or whole numbers: RUN/groups.jsonl has them "
        "beside the figures of each trained group, the report has figures by their values.",
    )
    max_picture_megapixels: float = Field(
        64.0,
        gt=0,
        le=178,
        description="Millions of pixels; a row with a larger picture is left out.",
    )
    max_refused_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the rows of train that may be refused at reading or quarantined, "
        "together; more end the run (one row always may, unless it is 0). 1: any number.",
    )
