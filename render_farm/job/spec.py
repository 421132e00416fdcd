"""The job file's shape: every key, its type, its bounds and its default.

A field's description is what an error message shows as "allowed", so it is written for users.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from render_farm.job.seeds import SEED_LIMIT

RequestField = Literal[
    "prompt",
    "id",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "scheduler",
    "model",
]
"""The parameters of a request that a column of the dataset can give, row by row.

`model` is one only where a job has several.
"""

NonEmpty = Annotated[
    str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]*$")
]
MAX_SIDE_PX = 8192
MAX_GUIDANCE = 100


MODEL_NAME = r"[A-Za-z0-9._-]{1,64}"
ModelName = Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME}$")]
MOST_MODELS = 32
ONLY_MODEL = ""
"""What requests call the model of a job that has one, without a name."""


def is_absent(value: object) -> bool:
    """What a job does not have is not written either: `run.json` stays as it was without it."""
    return value is None


class Section(BaseModel):
    """A part of the job file. Frozen; unknown keys are mistakes; nothing is converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PromptsSpec(Section):
    """Where the prompts are and which column gives what."""

    path: NonEmpty = Field(description="a Parquet file, folder or glob, local or s3://")
    columns: dict[RequestField, NonEmpty | None] = Field(
        default_factory=dict,
        description="request field: name of a column, or null to switch the field's column off",
    )
    limit: int | None = Field(
        default=None, ge=1, description="a whole number of rows, at least 1, or null for all"
    )


class LoraSpec(Section):
    """A LoRA that is added to the model, and how strongly."""

    path: NonEmpty = Field(
        description="a local .safetensors file or a folder with one, an s3:// object or prefix, "
        "or a hub id"
    )
    weight: float = Field(default=1.0, ge=-10, le=10, description="a number, -10 to 10")


class ModelSpec(Section):
    """Which model renders, and how it is held."""

    path: NonEmpty = Field(description="a hub id, a local folder or an s3:// prefix")
    revision: NonEmpty | None = Field(
        default=None, description="a branch, tag or commit of the hub repository, or null"
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto", description="auto, float16, bfloat16 or float32"
    )
    engine: Literal["auto", "steps", "call", "rehearsal"] = Field(
        default="auto", description="auto, steps, call or rehearsal"
    )
    offload: Literal["none", "model", "balanced"] = Field(
        default="none", description="none, model or balanced"
    )
    loras: list[LoraSpec] = Field(
        default_factory=list, description="a list of LoRAs, each with the keys path, weight"
    )
    clip_skip: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="null, or a whole number, 1 to 100, below the text encoder's layers",
    )
    compile: Literal["auto"] | bool = Field(default="auto", description="auto, true or false")
    safety_checker: bool = Field(default=False, description="true or false")


class DefaultsSpec(Section):
    """What a row gets that has no column, or a null, for it."""

    negative_prompt: Annotated[str, StringConstraints(max_length=100_000)] = Field(
        default="", description="a text of at most 100000 characters"
    )
    width: int = Field(
        default=512, ge=8, le=MAX_SIDE_PX, description=f"whole pixels, 8 to {MAX_SIDE_PX}"
    )
    height: int = Field(
        default=512, ge=8, le=MAX_SIDE_PX, description=f"whole pixels, 8 to {MAX_SIDE_PX}"
    )
    steps: int = Field(default=50, ge=1, le=1000, description="a whole number, 1 to 1000")
    guidance_scale: float = Field(
        default=7.5, ge=0, le=MAX_GUIDANCE, description=f"a number, 0 to {MAX_GUIDANCE}"
    )
    scheduler: NonEmpty = Field(
        default="model", description="model (the model's own) or the name of a scheduler"
    )
    samples: int = Field(
        default=1, ge=1, le=100, description="a whole number of images per row, 1 to 100"
    )
    model: ModelName | None = Field(
        default=None, exclude_if=is_absent, description="the name of one of the models"
    )


class OutputSpec(Section):
    """Where the result goes and what it looks like."""

    uri: NonEmpty = Field(description="an s3:// prefix or a local folder, of this run alone")
    container: Literal["webdataset", "parquet", "files"] = Field(
        default="webdataset", description="webdataset, parquet or files"
    )
    image: Literal["png", "jpeg", "webp"] = Field(default="png", description="png, jpeg or webp")
    quality: int = Field(
        default=95, ge=1, le=100, description="a whole number, 1 to 100 (png ignores it)"
    )


class ShardsSpec(Section):
    """How the rows are cut into shards."""

    rows: int = Field(default=256, ge=1, le=100_000, description="a whole number, 1 to 100000")


def _gpus(value: float) -> float:
    """Ray shares out one GPU, and several only whole."""
    if value != round(value, 2) or (value > 1 and not value.is_integer()):
        raise ValueError("not a share of a GPU")
    return value


RESERVED_OTHERWISE = ("CPU", "GPU", "memory", "object_store_memory")


def _resource(name: str) -> str:
    """Ray has words of its own, for which there are other keys or none."""
    if name in RESERVED_OTHERWISE:
        raise ValueError("not a resource of one's own")
    return name


def _share(value: float) -> float:
    """Ray counts resources in ten-thousandths."""
    if value != round(value, 4):
        raise ValueError("finer than Ray counts")
    return value


class WorkersSpec(Section):
    """How many workers there are and what each takes of its machine."""

    count: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        default="auto", description="auto or a whole number, 1 to 10000"
    )
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=64), AfterValidator(_gpus)] = Field(
        default="auto",
        description="auto, or GPUs a worker: hundredths of one, or 0 to 64 whole ones",
    )
    cpus: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="a whole number of CPU cores a worker, 1 to 1024"
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="auto or a whole number, 1 to 1024"
    )
    resources: dict[
        Annotated[NonEmpty, AfterValidator(_resource)],
        Annotated[float, Field(gt=0, le=1_000_000), AfterValidator(_share)],
    ] = Field(
        default_factory=dict,
        description="name of a resource that nodes of the Ray cluster declare, but CPU, GPU and "
        "memory: how much of it a worker takes, above 0, in ten-thousandths",
    )
    open_shards: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto", description="auto, or shards that a worker has in hand, 1 to 64"
    )


OnFlagged = Literal["keep", "reroll", "quarantine"]
"""What becomes of a picture that is black, white or flat."""


class LimitsSpec(Section):
    """When a shard has failed, when the whole run stops, and which pictures are not taken."""

    attempts: int = Field(default=3, ge=1, le=100, description="a whole number, 1 to 100")
    max_quarantined: float = Field(
        default=0.05, ge=0, le=1, description="a fraction of the rows, 0 to 1"
    )
    on_flagged: OnFlagged = Field(default="keep", description="keep, reroll or quarantine")
    stalled_after_s: Literal["auto"] | Annotated[float, Field(ge=1, le=604_800)] = Field(
        default="auto",
        description="auto, or seconds without a sign of life, 1 to 604800",
    )


class JobSpec(Section):
    """A job: what the user wrote, validated, with every default filled in."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="a text of 1 to 200 characters"
    )
    prompts: PromptsSpec = Field(description="the keys path, columns, limit")
    model: ModelSpec | None = Field(
        default=None,
        exclude_if=is_absent,
        description="the keys path, revision, dtype, engine, offload, loras, clip_skip, compile, "
        "safety_checker",
    )
    models: Annotated[dict[ModelName, ModelSpec], Field(min_length=1, max_length=MOST_MODELS)] | (
        None
    ) = Field(
        default=None,
        exclude_if=is_absent,
        description=f"1 to {MOST_MODELS} names, each with the keys of model",
    )
    defaults: DefaultsSpec = Field(
        default_factory=DefaultsSpec,
        description="the keys negative_prompt, width, height, steps, guidance_scale, scheduler, "
        "samples, model",
    )
    seed: int = Field(default=0, ge=0, lt=SEED_LIMIT, description="a whole number, 0 to 2^63-1")
    output: OutputSpec = Field(description="the keys uri, container, image, quality")
    shards: ShardsSpec = Field(default_factory=ShardsSpec, description="the key rows")
    workers: WorkersSpec = Field(
        default_factory=WorkersSpec, description="the keys count, gpus, cpus, batch_size"
    )
    limits: LimitsSpec = Field(
        default_factory=LimitsSpec,
        description="the keys attempts, max_quarantined, on_flagged, stalled_after_s",
    )

    @property
    def every_model(self) -> dict[str, ModelSpec]:
        """The models by name; the only one of a job without names is called `ONLY_MODEL`."""
        if self.models is not None:
            return self.models
        assert self.model is not None  # `parse_job` has seen to it
        return {ONLY_MODEL: self.model}
